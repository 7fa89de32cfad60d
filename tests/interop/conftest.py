"""What stock transformers and PEFT make of our exports, in a process without our code."""

import os
import subprocess
import sys
from collections import namedtuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from softprompt.interop.peft import export_peft

from interop_kit import WORDS, a_prompt, tiny_models


def tiny_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    specials = {"unk_token": "[UNK]", "pad_token": "[PAD]", "mask_token": "[MASK]", "eos_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=words, **specials)


# Runs without our code: transformers, peft and safetensors only.
STOCK = """
import sys
sys.modules["softprompt"] = None  # any import of ours fails
import os, re, sys, warnings
from pathlib import Path
import peft, torch, transformers
from peft import LoraConfig, PeftModel, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file

root = Path(sys.argv[1])
warnings.simplefilter("error", UserWarning)  # PEFT warns of keys it does not know
warnings.filterwarnings("ignore", "Position ids are not supported")  # said at each generation of a decoder
given = load_file(root / "inputs.safetensors")
ids, mask = given["ids"], given["mask"]

def t5():
    return transformers.AutoModelForSeq2SeqLM.from_pretrained(root / "models" / "encoder-decoder")

def bert():
    return transformers.AutoModelForMaskedLM.from_pretrained(root / "models" / "encoder")

found = {}
model = PeftModel.from_pretrained(t5(), root / "exports" / "t5").eval()
with torch.no_grad():
    found["t5 rows"] = model.get_prompt(1)[0].clone()
    out = model(input_ids=ids, attention_mask=mask, decoder_input_ids=given["decoder_ids"])
    found["t5 logits"] = out.logits
    found["t5 generated"] = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=8)
    model = PeftModel.from_pretrained(bert(), root / "exports" / "unknown").eval()
    found["bert logits"] = model(input_ids=ids, attention_mask=mask).logits

for name in ("t5", "head", "words", "decoder"):
    os.chdir(root / "exports" / name)
    code = re.search("```python\\n(.*?)```", Path("README.md").read_text(), re.S)[1]
    print(f"--- {name}\\n{code}")
    names = {}
    exec(code, names)
    found[f"{name} answers"] = (names["answers"] if "answers" in names else names["scores"]).contiguous()

torch.manual_seed(1)
made = {
    "prompt-tuning": (t5, PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=4)),
    "p-tuning": (bert, PromptEncoderConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=4)),
    "lora": (bert, LoraConfig(task_type="FEATURE_EXTRACTION")),
    "classes": (bert, PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4)),
}
for name, (build, config) in made.items():
    warnings.simplefilter("default")  # PEFT warns about its own defaults
    model = get_peft_model(build(), config).eval()
    model.save_pretrained(root / "made" / name)
    if name in ("prompt-tuning", "p-tuning"):
        found[f"{name} rows"] = model.get_prompt(1)[0][:4].detach().clone()
assert not [name for name in sys.modules if name.startswith("softprompt.")]
save_file({name: tensor.contiguous() for name, tensor in found.items()}, root / "found.safetensors")
"""
Stock = namedtuple("Stock", "root models tokenizer prompts inputs found")


@pytest.fixture(scope="session")
def stock(tmp_path_factory):
    """Exports of tiny models, and what stock transformers and PEFT make of them in a process without our code."""
    root = tmp_path_factory.mktemp("stock")
    models, tokenizer = tiny_models(), tiny_tokenizer()
    for kind, model in models.items():
        model.save_pretrained(root / "models" / kind)
        tokenizer.save_pretrained(root / "models" / kind)

    def of(kind, answers, **options):
        return a_prompt(kind, answers, name=str(root / "models" / kind), **options)

    prompts = {
        "t5": of("encoder-decoder", "tokens", m=1, repeats=5),
        "head": of("encoder", "linear-head", m=2, repeats=2),
        "words": of("encoder", "label-words"),
        "decoder": of("decoder", "tokens"),
        "unknown": a_prompt("encoder", "label-words", name="someone/elsewhere", seed=4),
    }
    for name, prompt in prompts.items():
        export_peft(prompt, root / "exports" / name)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, len(WORDS), (3, 6), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    inputs = {"ids": ids, "mask": mask, "decoder_ids": torch.randint(0, len(WORDS), (3, 4), generator=generator)}
    save_file(inputs, root / "inputs.safetensors")
    command = [sys.executable, "-c", STOCK, str(root)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Stock(root, models, tokenizer, prompts, inputs, load_file(root / "found.safetensors"))
