"""The critic: the policy's own transformer with a scalar head, trained apart from it."""

from __future__ import annotations

import copy

from torch import Tensor, nn
from transformers import PreTrainedModel

from meowtea.batch import TokenBatch
from meowtea.learner.logprobs import state_before_actions
from meowtea.learner.packing import Packing


class Critic(nn.Module):
    """Value of the history before each action token (PPO's V(h_t), the paper's token-level critic).

    The backbone is a copy of the policy's, cut to its first `layers` transformer layers if given: a shallow critic
    costs a fraction of the policy. The head starts at zero, so every first value is 0.
    """

    def __init__(self, policy: PreTrainedModel, layers: int | None):
        super().__init__()
        self.backbone = copy.deepcopy(policy.base_model)
        if layers is not None and layers < len(self.backbone.layers):
            self.backbone.layers = self.backbone.layers[:layers]
            self.backbone.config.num_hidden_layers = layers
        # fp32: a value head that rounds to bf16 cannot tell returns apart that differ by less than a percent
        self.head = nn.Linear(self.backbone.config.hidden_size, 1, device=policy.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.backbone.requires_grad_(True)
        # what nobody reads has no gradient
        self.backbone.eval()

    def forward(self, batch: TokenBatch, packing: Packing) -> Tensor:
        """(A,) values in fp32, in units of reward."""
        return self.head(state_before_actions(self.backbone, batch, packing).float())[:, 0]
