"""A conversation as token ids, by appending: what the policy sampled is never tokenised again.

Chat templates are written for whole conversations. Chat finds out, when it is made, how a template lets itself be
appended to, and proves on sample conversations that appending gives the ids of the whole template.
"""

from __future__ import annotations

import re
from typing import Any

from meowtea.errors import ModelError

Message = dict[str, str]

QUESTION, ANSWER = "What do you see?", "take the red key"
THOUGHT = "<think>\nThe key is red.\n</think>\n\n" + ANSWER


class Chat:
    """A tokenizer's chat template, cut into pieces that can be appended.

    stop_token_ids: tokens that end a reply, the template's end-of-turn first.
    rewrites: whether the template changes earlier turns (drops their thinking, moves the system message, ...);
        a Conversation then compares with the whole template at every turn.
    Text of users and environments cannot form special tokens: `<|im_end|>` in it is ordinary text.

    Errors: ModelError if the tokenizer has no chat template, its replies end without a special token, or appending
    does not give the template's ids.
    """

    def __init__(self, tokenizer: Any):
        if not getattr(tokenizer, "chat_template", None):
            raise ModelError(
                f"model: the tokenizer of {tokenizer.name_or_path!r} has no chat template; "
                "use an instruction-tuned model, or add chat_template.jinja to its folder"
            )
        self.tokenizer = tokenizer
        special = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
        self._special = sorted(special, key=len, reverse=True)
        self._splitter = re.compile("(" + "|".join(re.escape(token) for token in self._special) + ")")
        # Private-use characters stand for special tokens that occur in content, while the template runs.
        self._stand_in = {token: chr(0xF0000 + i) for i, token in enumerate(self._special)}
        self._original = {stand_in: token for token, stand_in in self._stand_in.items()}
        self._history, self.end_of_turn_id = self._first_turn()
        eos = tokenizer.eos_token_id
        self.stop_token_ids = [self.end_of_turn_id] + ([eos] if eos not in (None, self.end_of_turn_id) else [])
        self._special_ids = set(tokenizer.convert_tokens_to_ids(self._special))
        self.rewrites = not all(self._appends(sample) for sample in self._samples())
        self._prove()

    def start(self, system: str | None) -> Conversation:
        """A new conversation; None leaves the system message to the template."""
        return Conversation(self, system)

    def reply_text(self, action_ids: list[int]) -> str:
        """The text of a reply, special tokens dropped."""
        return self.decode([i for i in action_ids if i not in self._special_ids])

    def encode_reply(self, text: str) -> list[int]:
        """The ids of a reply nobody sampled, its end-of-turn included."""
        return [*self._encode_text(text), self.end_of_turn_id]

    def encode(self, messages: list[Message]) -> list[int]:
        """The ids of a whole conversation, up to where the next reply begins."""
        return self._encode_rendered(self._render(messages, generate=True))

    def encode_next(self, text: str) -> list[int]:
        """The ids of a user message that follows a finished reply, up to where the next reply begins."""
        rendered = self._render([*_talk(1), {"role": "user", "content": text}], generate=True)
        return self._encode_rendered(rendered.removeprefix(self._history))

    def template_text(self, messages: list[Message]) -> str:
        """What `encode` encodes."""
        return self._restore(self._render(messages, generate=True))

    def decode(self, ids: list[int]) -> str:
        """The text of ids, special tokens as the template writes them."""
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _render(self, messages: list[Message], generate: bool = False) -> str:
        """The template's text; special tokens in it are the template's own, those in content are stand-ins."""
        safe = [m | {"content": self._splitter.sub(lambda x: self._stand_in[x[0]], m["content"])} for m in messages]
        try:
            return self.tokenizer.apply_chat_template(safe, tokenize=False, add_generation_prompt=generate)
        except Exception as error:  # templates raise whatever they like: jinja's errors, or type errors
            roles = ", ".join(message["role"] for message in messages)
            raise ModelError(
                f"model: the chat template of {self.tokenizer.name_or_path!r} refuses the roles {roles}: {error}; "
                "if it has no system role, set prompt.system=null"
            ) from error

    def _restore(self, text: str) -> str:
        return "".join(self._original.get(character, character) for character in text)

    def _encode_rendered(self, rendered: str) -> list[int]:
        ids: list[int] = []
        for piece in self._splitter.split(rendered):
            if piece in self._stand_in:
                ids.append(self.tokenizer.convert_tokens_to_ids(piece))
            elif piece:
                ids += self._encode_text(self._restore(piece))
        return ids

    def _encode_text(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

    def _first_turn(self) -> tuple[str, int]:
        """The text of a first turn that is followed by another, and the id of the special token that ends it."""
        rendered = self._render([*_talk(1), {"role": "user", "content": QUESTION}], generate=True)
        _, found, after = rendered.partition(ANSWER)
        match = self._splitter.match(after)
        if not found or not match or not match[0]:
            raise ModelError(
                f"model: in the chat template of {self.tokenizer.name_or_path!r} a reply is followed by "
                f"{after[:20]!r}, not by a special token, so nothing would end a turn; use another chat template"
            )
        return rendered[: len(rendered) - len(after) + match.end()], self.tokenizer.convert_tokens_to_ids(match[0])

    def _samples(self) -> list[list[Message]]:
        """Conversations that templates are known to treat differently."""
        samples = [_talk(3), _talk(3, THOUGHT)]
        with_system = [{"role": "system", "content": "Play."}, *_talk(3)]
        try:
            self._render(with_system)
        except ModelError:
            return samples  # no system role: an error only for those who use one
        return [*samples, with_system]

    def _appends(self, messages: list[Message]) -> bool:
        """Whether appending gives the text of the whole template at every user message."""
        start = next(k for k, message in enumerate(messages) if message["role"] == "user")
        ids = self.encode(messages[: start + 1])
        for k in range(start + 2, len(messages), 2):
            ids = [*ids, *self.encode_reply(messages[k - 1]["content"]), *self.encode_next(messages[k]["content"])]
            if self.decode(ids) != self.template_text(messages[: k + 1]):
                return False
        return True

    def _prove(self) -> None:
        """Raise ModelError unless conversations have the template's own ids at every user message."""
        for messages in self._samples():
            conversation = self.start(messages[0]["content"] if messages[0]["role"] == "system" else None)
            for k, message in enumerate(messages):
                if message["role"] == "assistant":
                    conversation.reply(self.encode_reply(message["content"]))
                elif message["role"] == "user":
                    conversation.user(message["content"])
                    whole = self.tokenizer.apply_chat_template(
                        messages[: k + 1], tokenize=True, add_generation_prompt=True, return_dict=False
                    )
                    self._same(conversation.ids, whole, k)

    def _same(self, ids: list[int], expected: list[int], index: int) -> None:
        if ids != expected:
            at = next((i for i, (a, b) in enumerate(zip(ids, expected, strict=False)) if a != b), len(ids))
            raise ModelError(
                f"model: appending to the chat template of {self.tokenizer.name_or_path!r} differs from the whole "
                f"template at message {index}, token {at}: {self.decode(ids[at - 3 : at + 3])!r} against "
                f"{self.decode(expected[at - 3 : at + 3])!r}; this template cannot be used"
            )


class Conversation:
    """One conversation. ids: the whole prompt so far. rewritten: the last user() call changed what stood before."""

    def __init__(self, chat: Chat, system: str | None):
        self._chat = chat
        self._messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self._end_missing = False
        self._replied = False
        self.ids: list[int] = []
        self.rewritten = False

    def user(self, text: str) -> list[int]:
        """Append a user message and the start of the reply. Returns the ids that were appended, none of them
        sampled; if `rewritten` is then set they are not appended but the whole new prompt."""
        self._messages.append({"role": "user", "content": text})
        self.rewritten = False
        if not self._replied:
            context = self._chat.encode(self._messages)
            self.ids = list(context)
            return context
        context = [self._chat.end_of_turn_id] if self._end_missing else []
        context += self._chat.encode_next(text)
        if self._chat.rewrites:
            whole = self._chat.template_text(self._messages)
            if self._chat.decode(self.ids + context) != whole:
                context = self._chat.encode(self._messages)
                self.ids, self.rewritten = [], True
        self.ids = self.ids + context
        return context

    def reply(self, action_ids: list[int]) -> None:
        """Append a reply, verbatim. One that was cut gets its end-of-turn with the next user message."""
        self._messages.append({"role": "assistant", "content": self._chat.reply_text(action_ids)})
        self._end_missing = not action_ids or action_ids[-1] != self._chat.end_of_turn_id
        self._replied = True
        self.ids = self.ids + list(action_ids)


def _talk(turns: int, answer: str = ANSWER) -> list[Message]:
    """A sample conversation that ends with a reply."""
    messages = []
    for _ in range(turns):
        messages += [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": answer}]
    return messages
