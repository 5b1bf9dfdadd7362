"""A step of training with open_clip's losses, and with ours in their place."""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from unittest.mock import MagicMock

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

if importlib.util.find_spec("open_clip") is None:
    pytest.skip("open_clip is not installed", allow_module_level=True)


class Absent(ModuleType):
    """Stands for a package that is not installed; what is asked of it is never called."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return nn.Identity if name == "FrozenBatchNorm2d" else MagicMock()


@pytest.fixture(scope="module")
def open_clip():
    """The package without what its transforms and tokenizers ask for, where that is not installed."""
    from transformers import AutoModel  # noqa: F401  (before it could take the stand-ins for the packages)

    names = [f"torchvision{part}" for part in ("", ".ops", ".ops.misc", ".transforms", ".transforms.functional")]
    packages = {name: importlib.util.find_spec(name) for name in ("ftfy", "torchvision")}
    made = [name for name in ["ftfy", *names] if packages[name.partition(".")[0]] is None]
    sys.modules.update({name: Absent(name) for name in made})
    for name in made:
        sys.modules[name].__spec__ = ModuleSpec(name, None)
        sys.modules[name].__path__ = []
    try:
        import open_clip

        yield open_clip
    finally:
        for name in [*made, *(name for name in sys.modules if name.partition(".")[0] == "open_clip")]:
            sys.modules.pop(name, None)


@pytest.fixture
def integration(open_clip):
    from xmkern.integrations import open_clip as found

    yield importlib.reload(found)
    if found._BEFORE:
        found.unpatch()


def small_vit(open_clip):
    """ViT-B-32 made small."""
    torch.manual_seed(0)
    config = open_clip.get_model_config("ViT-B-32")
    vision = {**config["vision_cfg"], "layers": 2, "width": 64, "image_size": 32, "patch_size": 16}
    text = {**config["text_cfg"], "layers": 2, "width": 32, "heads": 2, "context_length": 8, "vocab_size": 50}
    return open_clip.CLIP(16, vision, text)


def step(model, loss, **more):
    torch.manual_seed(1)
    model.zero_grad()
    found = model(torch.randn(6, 3, 32, 32), torch.randint(1, 50, (6, 8)))
    features = [normalize(x, dim=-1) for x in found[:2]]
    value = loss(*features, logit_scale=found[2], **more)
    value = sum(value) if isinstance(value, tuple) else value
    value.backward()
    return [value, *(parameter.grad for parameter in model.parameters() if parameter.grad is not None)]


@pytest.mark.parametrize("name", ["ClipLoss", "SigLipLoss", "CoCaLoss"])
def test_a_training_step(open_clip, integration, name):
    model = small_vit(open_clip)
    options = {"caption_loss_weight": 1.0, "clip_loss_weight": 2.0} if name == "CoCaLoss" else {}
    loss, more = getattr(open_clip.loss, name)(**options), {}
    if name == "CoCaLoss":
        more = {"logits": torch.randn(6, 4, 50), "labels": torch.randint(1, 50, (6, 4))}
    elif name == "SigLipLoss":
        more = {"logit_bias": torch.tensor(-3.0)}
    expected = step(model, loss, **more)
    assert integration.patch() == ("ClipLoss", "SigLipLoss")
    found = step(model, loss, **more)  # the loss that was there before
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()) + 1e-7)
    served = open_clip.loss.SigLipLoss if name == "SigLipLoss" else open_clip.loss.ClipLoss
    assert served.forward.__module__ == "xmkern.integrations.open_clip"
    assert integration.unpatch() == ("ClipLoss", "SigLipLoss")
    assert served.forward.__module__ == "open_clip.loss"


def test_twice_is_an_error(integration):
    integration.patch()
    with pytest.raises(RuntimeError, match="are patched already"):
        integration.patch()
    integration.unpatch()
    with pytest.raises(RuntimeError, match="are not patched"):
        integration.unpatch()
