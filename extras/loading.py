"""From a name or a folder to a Policy: a VLM of the hub, the project's tiny one, adapters.

Called by whoever needs a model: train.py, extras/run_folder.py (a finished run), the tool agents.
It trains nothing, and it knows what the libraries do to you: each workaround is a named function.
"""

import json
import logging
import sys
import warnings
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

from agent import LINE_TOKENS, REFERENCE, THOUGHT_END, Forward, Policy, is_tiny
from envs import die
from extras import shared_prompt, shared_prompt_qwen35

# The families that are supported, by the model_type of their config.json, and the fast path of each
# of them. agent.py knows their frames and vision towers.
FAMILIES = {
    "qwen2_vl": shared_prompt.SHARED,
    "qwen2_5_vl": shared_prompt.SHARED,
    "qwen3_vl": shared_prompt.SHARED,
    "qwen3_5": shared_prompt_qwen35.SHARED,
}
FORWARDS = ("shared", "reference")  # the values of --forward
LEAST_THOUGHT = LINE_TOKENS + 1  # of --thinking: one line and `</think>`
LEAST_TINY_THOUGHT = 2  # of the tiny model, whose words are whole tokens: a word and `</think>`


def load_policy(
    path: str | Path,
    adapter: str | Path | None = None,
    *,
    forward: str = "shared",
    dtype: str = "",
    device: str = "",
    max_pixels: int = 0,
    load_in_4bit: bool | None = False,
) -> Policy:
    """Load a VLM by name or path: a hub model and the project's own tiny one by the same lines.

    `adapter`: a folder in peft's format. `forward`: how it computes, "shared" or "reference".
    `dtype`, if empty: float32 on a CPU, else bfloat16, or float16 where the card lacks that.
    `device`, if empty: CUDA where there is one, but the CPU for the tiny model. `max_pixels`: the
    largest screenshot that the image processor may keep, in pixels; 0: its own limit.
    `load_in_4bit`: NF4; None: only where 16 bits would fill more than half of the free memory.
    Raises SystemExit with one line for a folder without model or tokenizer, a model of another
    family, an adapter of another base.
    """
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoImageProcessor

    quiet_the_libraries()
    try:
        config = AutoConfig.from_pretrained(path)
        if config.model_type not in FAMILIES:
            die(
                f"{path} is a {config.model_type}; supported are Qwen2-VL, Qwen2.5-VL, Qwen3-VL, "
                f"Qwen3.5 and what is trained from them (model_type {', '.join(FAMILIES)})"
            )
        tokenizer = load_tokenizer(path, config)
        image_processor = AutoImageProcessor.from_pretrained(path)
        core = load_core(path, config, dtype, device, load_in_4bit)
    except ImportError as error:  # bitsandbytes, where there is no build of it for this machine
        reason = str(error).strip().splitlines()[0][:200]
        die(
            f"4 bits do not work here: {reason}; --no-load_in_4bit goes without, for the policy (a "
            "tool agent is loaded in 16 bits where these fill less than half of the free memory)"
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = str(error).splitlines()[0][:200]
        die(f"cannot load a vision-language model from {path}: {reason}")
    if max_pixels:
        limit_pixels(image_processor, max_pixels)
    computed_by = choose_forward(core, forward)
    policy = Policy(core, tokenizer, image_processor, forward=computed_by, name=str(path))
    if adapter:
        load_adapter(policy, adapter)
    return policy


def choose_forward(core: torch.nn.Module, wanted: str = "shared") -> Forward:
    """What goes into policy.forward: the family's fast path, if it is wanted and there is one."""
    if wanted == "reference":
        return REFERENCE
    return FAMILIES.get(core.config.model_type, REFERENCE)


def load_tokenizer(path: str | Path, config):
    """The tokenizer with its chat template, which some checkpoints keep in a file of its own."""
    from transformers import AutoTokenizer
    from transformers.utils import cached_file

    tokenizer = AutoTokenizer.from_pretrained(path)
    if not tokenizer.chat_template:
        name = "chat_template.json"
        file = cached_file(path, name, _raise_exceptions_for_missing_entries=False)
        if file:
            tokenizer.chat_template = json.loads(Path(file).read_text())["chat_template"]
    # Without tokenizer files transformers makes an empty tokenizer.
    if not tokenizer.chat_template or len(tokenizer) <= config.image_token_id:
        die(f"{path} has no tokenizer that fits the model")
    return tokenizer


def load_core(path, config, dtype: str, device: str, load_in_4bit: bool | None) -> torch.nn.Module:
    """The model with frozen weights on its device; 4 bits leave vision tower and head alone."""
    from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

    device = device or default_device(config)
    if device != "cpu":
        avoid_cudnn_attention()
        tell_of_the_slow_path(config.model_type)
    number_type = getattr(torch, dtype or default_dtype(device))
    if load_in_4bit is None:
        load_in_4bit = device != "cpu" and fills_half_of_the_memory(config)
    if load_in_4bit:
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=number_type,
            # matched from the start of a module's name: "visual" alone would match nothing
            llm_int8_skip_modules=["model.visual", "lm_head"],
        )
        core = AutoModelForImageTextToText.from_pretrained(
            path, dtype=number_type, device_map={"": device}, quantization_config=quantization
        )
        keep_4bit_trainable(core)
    else:
        core = AutoModelForImageTextToText.from_pretrained(path, dtype=number_type).to(device)
    multiply_patches(core)
    return core.requires_grad_(False).eval()


def default_device(config) -> str:
    if torch.cuda.is_available() and not is_tiny(config):
        return "cuda"
    return "cpu"


def default_dtype(device: str) -> str:
    if device == "cpu":
        return "float32"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bfloat16"
    return "float16"


def fills_half_of_the_memory(config) -> bool:
    """Whether 16-bit weights leave less than half of the GPU's free memory for all else."""
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    weights = sum(weight.numel() for weight in model.parameters())
    free, _ = torch.cuda.mem_get_info()  # bytes
    return 2 * weights > free / 2


def limit_pixels(image_processor, max_pixels: int) -> None:
    """No screenshot has more pixels than this from now on.

    What the library calls edges are areas in pixels. A screen below the shortest is enlarged to it
    and rounded up: a quarter of the limit leaves room for that.
    """
    shortest = min(image_processor.size["shortest_edge"], max_pixels // 4)
    image_processor.size = {"shortest_edge": shortest, "longest_edge": max_pixels}


def quiet_the_libraries() -> None:
    """Hide three messages: two that nobody here can act on, and one that tell_of_the_slow_path says
    in fewer words.

    bitsandbytes tells of a kernel for 4 bits that is not used here; peft and transformers argue
    about a name; transformers tells of each kernel of Qwen3.5 that is not installed, on a CPU too.
    """
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    logging.getLogger("transformers.integrations.hub_kernels").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")


@cache  # once is enough
def tell_of_the_slow_path(family: str) -> None:
    """Qwen3.5 without its kernels on a GPU is right, but slow (transformers issue 48718)."""
    if family != "qwen3_5" or find_spec("fla"):
        return
    print(
        "note: the linear attention of Qwen3.5 runs without its fast kernels, much slower; "
        "pip install flash-linear-attention brings them",
        file=sys.stderr,
    )


def avoid_cudnn_attention() -> None:
    """cuDNN's attention was seen to give NaN gradients with masks (pytorch issue 196678).

    It also plans anew for each length.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def keep_4bit_trainable(core: torch.nn.Module) -> None:
    """Keep bitsandbytes (0.50) from packing 4-bit weights.

    A CPU with AVX512-BF16 would do so in the first eval forward and give no gradient from then on,
    with no more than a warning.
    """
    for module in core.modules():
        module.support_avx512bf16_for_cpu = False


def multiply_patches(core: torch.nn.Module) -> None:
    """Embed the patches of a screenshot by a product.

    A convolution whose windows do not overlap is one, and the product is many times as fast on a
    CPU.
    """
    patches = core.model.visual.patch_embed.proj
    linear = torch.nn.functional.linear
    patches.forward = lambda x: linear(x.flatten(1), patches.weight.flatten(1), patches.bias)


def let_think(policy: Policy, budget: int) -> None:
    """From now on the policy thinks before it forecasts, with a budget in tokens; 0: it does not.

    Ends with one line where the budget is too small, or where the model does not think.
    """
    check_budget(budget, policy.tiny)
    if budget > 0:
        if THOUGHT_END not in policy.tokenizer.get_vocab():
            die(f"{needs_a_thinker(budget)}: {policy.name} has no token {THOUGHT_END}")
        # Nothing opens a thought of the tiny model: where it has learnt to think, it always does.
        if not policy.tiny and "<think>" not in policy.tokenizer.chat_template:
            die(f"{needs_a_thinker(budget)}: the chat template of {policy.name} has no <think>")
    policy.thinking = budget


def needs_a_thinker(budget: int) -> str:
    """How the message begins where --thinking meets a model that does not."""
    return (
        f"--thinking {budget} needs a model that thinks (Qwen3-VL-Thinking, Qwen3.5, or the tiny "
        "one after a warm start with --thinking)"
    )


def check_budget(budget: int, tiny: bool = False) -> None:
    """Ends with one line where a thought of one line would not fit; 0 is no thought at all."""
    least = LEAST_TINY_THOUGHT if tiny else LEAST_THOUGHT
    if 0 < budget < least:
        what = "word" if tiny else "line"
        die(
            f"--thinking {budget}: too small a budget; a thought of one {what} and its "
            f"{THOUGHT_END} take up to {least} tokens"
        )


def load_adapter(policy: Policy, folder: str | Path, is_trainable: bool = False) -> None:
    """Load adapters that `policy.peft.save_pretrained` (or plain peft) wrote.

    peft loads what fits and only warns about the rest, so a file of another base would leave the
    model as it was: that is an error here.
    """
    from peft import PeftModel
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(Path(folder) / "adapter_model.safetensors", "pt") as saved:
            saved_names = set(saved.keys())
        policy.peft = PeftModel.from_pretrained(policy.core, str(folder), is_trainable=is_trainable)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0][:200]
        die(f"no adapter for this model in {folder}: {reason}")
    own_names = set()
    for name, _ in policy.peft.named_parameters():
        if "lora_" in name:
            own_names.add(name.replace(".default", ""))  # the adapter's name, not written to files
    if saved_names != own_names:
        wrong = len(saved_names ^ own_names)
        die(
            f"the adapter in {folder} was made for another model "
            f"({wrong} of its weights do not fit)"
        )
