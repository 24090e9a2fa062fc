"""The critic: the policy's own transformer with a scalar head, trained apart from it."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from meowtea.batch import TokenBatch
from meowtea.learner.attention import checkpoint_layers
from meowtea.learner.logprobs import state_before_actions
from meowtea.learner.packing import Packing


class Critic(nn.Module):
    """Value of the history before each action token (PPO's V(h_t), the paper's token-level critic).

    The backbone is a copy of the policy's, cut to its first `layers` transformer layers if given: a shallow critic
    costs a fraction of the policy. The head starts at zero, so every first value is 0.
    """

    def __init__(self, policy: PreTrainedModel, layers: int | None):
        super().__init__()
        backbone: Any = copy.deepcopy(policy.base_model)
        if layers is not None and layers < len(backbone.layers):
            backbone.layers = backbone.layers[:layers]
            backbone.config.num_hidden_layers = layers
        if backbone.is_gradient_checkpointing:
            checkpoint_layers(backbone)
        self.backbone = backbone.requires_grad_(True).eval()
        # fp32: a head that rounds to bf16 cannot tell returns apart that differ by less than a percent
        self.head = nn.Linear(backbone.config.hidden_size, 1, device=policy.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: TokenBatch, packing: Packing) -> Tensor:
        """(A,) values in fp32, in units of reward."""
        return self.head(state_before_actions(self.backbone, batch, packing).float())[:, 0]
