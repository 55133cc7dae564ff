"""Folders of language models: both key conventions, shards, dtypes, and one clear error for each broken one."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import Qwen3ForCausalLM

from acestep.checkpoints.folders import TEXT_ENCODER_FOLDER
from acestep.errors import CheckpointError
from acestep.language.language_model import LanguageModel
from tests import miniature
from tests.acestep.language import miniature_lm
from tests.refusals import raises

CPU = torch.device("cpu")
CODES = (5, 0, 63, 17)


def load(folder: Path) -> LanguageModel:
    return LanguageModel.from_checkpoint(folder, CPU, torch.float32)


def logits(model: LanguageModel) -> Tensor:
    return model.network(torch.tensor([model.prompt_ids(CODES)])).logits


@pytest.mark.parametrize("tied", [False, True])
def test_both_key_conventions_and_shards_are_the_same_model(tmp_path: Path, tied: bool) -> None:
    expected = miniature_lm.write(tmp_path / "own", tied=tied)
    reference = Qwen3ForCausalLM.from_pretrained(expected, dtype=torch.float32).eval()
    ids = torch.tensor([load(expected).prompt_ids(CODES)])
    with torch.inference_mode():
        wanted = reference(ids).logits
    made = []
    for index, options in enumerate(({}, {"prefix": ""}, {"shards": 3}, {"prefix": "", "shards": 2})):
        model = load(miniature_lm.write(tmp_path / str(index), tied=tied, **options))
        made.append(logits(model))
        assert torch.equal(made[0], made[-1]), options
        # To rounding: ours has a SiLU whose bits do not depend on the number of threads.
        torch.testing.assert_close(made[-1], wanted, rtol=1e-5, atol=1e-5)
        assert (model.network.lm_head.weight is model.network.model.embed_tokens.weight) == tied


def test_half_precision_keeps_rotary_frequencies(tmp_path: Path) -> None:
    folder = miniature_lm.write(tmp_path / "lm")
    model = LanguageModel.from_checkpoint(folder, CPU, torch.bfloat16)
    assert model.network.model.rotary_emb.inv_freq.dtype == torch.float32
    assert model.network.lm_head.weight.dtype == torch.bfloat16
    assert model.understand(CODES, 0).timesignature


def rewrite_json(file: Path, **changes) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_other_folders_are_recognised(tmp_path: Path) -> None:
    encoder = miniature.FOLDER / TEXT_ENCODER_FOLDER
    with pytest.raises(
        CheckpointError, match=r"tokenizer\.json: has no token <\|audio_code_0\|>: this is a text enc"
    ):
        load(encoder)
    with raises(CheckpointError, "unsupported_weights", "model_type", "acestep", remedy="give the folder"):
        load(miniature.FOLDER / "acestep-v15-base")
    with pytest.raises(CheckpointError, match="no such file"):
        load(tmp_path / "nowhere")
    no_tags = miniature_lm.write(tmp_path / "tags", tags=("<think>",))
    with pytest.raises(CheckpointError, match="has no token </think>; give the folder of a 5 Hz language model"):
        load(no_tags)
    for name, codes in {"gap": (0, 1, 3), "order": (0, 2, 1)}.items():
        with pytest.raises(CheckpointError, match="the 3 audio codes are not one run of tokens from"):
            load(miniature_lm.write(tmp_path / name, codes=codes))


def test_broken_folders(tmp_path: Path) -> None:
    folder = miniature_lm.write(tmp_path / "lm")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    size = json.loads((folder / "config.json").read_text())["vocab_size"]

    rewrite_json(folder / "config.json", vocab_size=size - 1)
    with pytest.raises(CheckpointError, match=rf"vocab_size is {size - 1}, but .* is {size - 1}; the two"):
        load(folder)
    rewrite_json(folder / "config.json", vocab_size=size, num_hidden_layers=3)
    with pytest.raises(CheckpointError, match=r"config\.json: describes no Qwen3 model \(.*`layer_types`"):
        load(folder)
    rewrite_json(folder / "config.json", layer_types=["full_attention"] * 3)
    with pytest.raises(CheckpointError, match=r"11 missing: model\.layers\.2\."):
        load(folder)
    rewrite_json(folder / "config.json", num_hidden_layers=2, layer_types=["full_attention"] * 2)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not readable as a tokenizer"):
        load(folder)

    byte = tokenizer["model"]["vocab"].pop("Ā")
    tokenizer["model"]["vocab"]["other"] = byte
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match="not a byte-level vocabulary"):
        load(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: no such file"):
        load(folder)

    folder = miniature_lm.write(tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickles are refused"):
        load(folder)


def test_codes_that_are_not_read_as_one_token(tmp_path: Path) -> None:
    folder = miniature_lm.write(tmp_path / "lm")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    codes = [token for token in tokenizer["added_tokens"] if "audio_code" in token["content"]]
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if token not in codes]
    tokenizer["model"]["vocab"] |= {token["content"]: token["id"] for token in codes}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match="reads an audio code as several tokens"):
        load(folder)
