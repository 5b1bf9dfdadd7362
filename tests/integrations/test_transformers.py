"""Models of transformers give with our kernels what they give without."""

import copy
import pickle
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

hf = pytest.importorskip("transformers", reason="transformers is not installed")

from tests.integrations import hf_models  # noqa: E402
from xmkern import functional, masks  # noqa: E402
from xmkern.integrations import _transformers as adapters  # noqa: E402
from xmkern.integrations import transformers as integration  # noqa: E402
from xmkern.testing import threads  # noqa: E402

hf.logging.set_verbosity_error()


@pytest.fixture(autouse=True)
def registered():
    integration.register()
    with threads(1):  # for models this small
        yield
    integration.unregister()


def switched_on(make, model):
    model = copy.deepcopy(model)
    if make in hf_models.CHOOSING:
        model.set_attn_implementation("xmkern")
    else:
        integration.patch(model)
    return model


def outputs(model, inputs, **options):
    torch.manual_seed(1)  # what a model draws, as ViLT its patches
    found = model(**inputs, **options)
    found = {name: each for name, each in found.items() if "past" not in name and (options or "attentions" not in name)}
    leaves = [hf.modeling_outputs.ModelOutput.to_tuple(x) if isinstance(x, dict) else x for x in found.values()]
    return [x for x in tree_leaves(leaves) if isinstance(x, torch.Tensor) and x.is_floating_point()]


def results(model, inputs):
    """Outputs and the parameters' gradients, by name."""
    found = outputs(model, inputs)
    torch.manual_seed(2)
    loss = sum((x * torch.randn_like(x, dtype=torch.float32).to(x.dtype)).sum() for x in found if x.requires_grad)
    loss.backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    return dict(enumerate(found)) | grads


def assert_as_exact(ours, eager, exact):
    """Against float64: all together at most twice eager's error; each alone, which is a matter of luck, eight times.

    Where eager itself is lucky with one, its share of the error of all, by its size, is what counts.
    """
    assert ours.keys() == eager.keys() == exact.keys()
    size = torch.stack([x.norm() for x in exact.values()]).norm().item()
    eps = torch.finfo(torch.float32).eps

    def errors(found):
        return {name: (x.double() - exact[name]).norm().item() for name, x in found.items()}

    of_ours, of_eager = errors(ours), errors(eager)
    total, of_eager_total = (sum(x**2 for x in each.values()) ** 0.5 for each in (of_ours, of_eager))
    assert total <= 2 * of_eager_total + eps * size, f"{total:.2e}, eager's {of_eager_total:.2e}"
    for name, error in of_ours.items():  # gradients of the keys' biases are nothing but rounding
        floor = 8 * eps * (exact[name].norm().item() + 0.05 * size)
        usual = max(of_eager[name], of_eager_total * exact[name].norm().item() / size)
        assert error <= 8 * usual + floor, f"{name}: {error:.2e}, eager's {of_eager[name]:.2e}"


@pytest.fixture
def calls(monkeypatch):
    """The masks and biases with which our attention is called."""
    seen = []

    def spy(query, key, value, mask=None, **options):
        seen.append((mask, options.get("bias")))
        return functional_attention(query, key, value, mask, **options)

    functional_attention = functional.attention
    monkeypatch.setattr(functional, "attention", spy)
    monkeypatch.setattr(adapters, "attention", spy)
    return seen


@pytest.mark.parametrize("make", [*hf_models.CHOOSING, *hf_models.EAGER], ids=lambda make: make.__name__)
def test_outputs_and_gradients(make, calls):
    model, inputs = hf_models.build(make)
    eager = results(model, inputs)
    assert not calls
    ours = results(switched_on(make, model), inputs)
    assert calls
    wide = {name: x.double() if x.is_floating_point() else x for name, x in inputs.items()}
    assert_as_exact(ours, eager, results(copy.deepcopy(model).double(), wide))


@pytest.mark.parametrize("make", hf_models.EAGER, ids=lambda make: make.__name__)
def test_patching_is_undone(make):
    model, inputs = hf_models.build(make)
    before, state = outputs(model, inputs), model.state_dict()
    changed = integration.patch(model)
    assert any("Attention" in name for name in changed)
    assert all(sum(type(m).__name__ == name for m in model.modules()) == n for name, n in changed.items())
    assert list(model.state_dict()) == list(state)
    with pytest.raises(ValueError, match="no module to patch that is not patched already"):
        integration.patch(model)
    assert integration.unpatch(model) == changed
    assert all("forward" not in module.__dict__ for module in model.modules())
    for x, y in zip(outputs(model, inputs), before, strict=True):
        assert torch.equal(x, y)
    with pytest.raises(ValueError, match="no module that is patched"):
        integration.unpatch(model)


GENERATING = [
    hf_models.bert_decoder, partial(hf_models.gpt2), hf_models.mistral, hf_models.t5, hf_models.bart, hf_models.git,
    hf_models.blip,
]  # fmt: skip
HEADS = {
    hf.GPT2Model: hf.GPT2LMHeadModel, hf.MistralModel: hf.MistralForCausalLM, hf.T5Model: hf.T5ForConditionalGeneration,
    hf.BartModel: hf.BartForConditionalGeneration,
}  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"cache_implementation": "static"}], ids=str)
@pytest.mark.parametrize("make", GENERATING, ids=lambda make: getattr(make, "func", make).__name__)
def test_generation_token_by_token(make, options, calls):
    cls, config, _ = make()
    model, inputs = hf_models.build(lambda: (HEADS.get(cls, cls), config, make()[2]))
    if "static" in options.values() and not getattr(model, "_can_compile_fullgraph", False):
        pytest.skip("the model knows no static cache")
    side = "right" if config.is_encoder_decoder else "left"  # a prompt ends where the answer begins
    inputs = {name: x for name, x in inputs.items() if name == "pixel_values"} | hf_models.words(side=side)
    if isinstance(model, hf.BlipForConditionalGeneration):
        inputs["attention_mask"][:] = 1

    def generate(model):
        settings = {"max_new_tokens": 6, "do_sample": False, "disable_compile": True}
        if not isinstance(model, hf.BlipForConditionalGeneration):
            settings["pad_token_id"] = 0
        return model.generate(**inputs, **settings, **options)

    expected = generate(model)
    assert not calls
    made = model.set_attn_implementation if HEADS.get(cls) or cls is hf.BertLMHeadModel else None
    if made:
        made("xmkern")
    else:
        integration.patch(model)
    assert torch.equal(generate(model), expected)
    assert calls


@pytest.mark.parametrize(
    "make",
    [hf_models.bert, hf_models.t5, hf_models.gpt2, *hf_models.EAGER],
    ids=lambda make: make.__name__,
)
def test_weights_come_from_eager_attention(make, calls):
    model, inputs = hf_models.build(make)
    if isinstance(model, hf.FlavaModel):
        model, inputs = model.text_model, hf_models.words()
    ours = switched_on(make, model)
    expected = outputs(model, inputs, output_attentions=True)
    found = outputs(ours, inputs, output_attentions=True)
    assert len(found) == len(expected) > len(outputs(model, inputs))
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y)


class TestMasks:
    """Padding is seen, and in few numbers."""

    def kinds(self, make, calls, **changed):
        model, inputs = hf_models.build(make)
        model.set_attn_implementation("xmkern")
        model(**inputs | changed)
        return [repr(mask) for mask, _ in calls]

    def test_of_padding(self, calls):
        assert self.kinds(hf_models.bert, calls) == ["key_lengths(<[3]>)"] * 2

    def test_of_holes(self, calls):
        mask = torch.ones(3, 7, dtype=torch.long)
        mask[1, 2] = 0
        assert self.kinds(hf_models.bert, calls, attention_mask=mask) == ["dense(<[3, 1, 1, 7]>)"] * 2

    def test_of_none(self, calls):
        assert self.kinds(hf_models.bert, calls, attention_mask=None) == ["None"] * 2
        calls.clear()
        assert self.kinds(hf_models.gpt2, calls, attention_mask=None) == ["causal()"] * 2

    def test_of_padded_text_left_to_right(self, calls):
        assert self.kinds(hf_models.gpt2, calls) == ["key_lengths(<[3]>) & causal()"] * 2

    def test_of_a_window(self, calls):
        assert self.kinds(hf_models.mistral, calls) == ["dense(<[3, 1, 7, 7]>)"] * 2 or all(
            isinstance(mask, torch.Tensor) and mask.shape == (3, 1, 7, 7) for mask, _ in calls
        )

    def test_of_queries_after_a_cache(self, calls):
        model, inputs = hf_models.build(hf_models.gpt2)
        model.set_attn_implementation("xmkern")
        past = model(inputs["input_ids"]).past_key_values
        calls.clear()
        model(inputs["input_ids"][:, :2], past_key_values=past)
        assert [mask for mask, _ in calls] == [masks.causal(7)] * 2

    def test_t5_keeps_its_bias_apart(self, calls):
        self.kinds(hf_models.t5, calls)
        assert all(bias.shape[:2] == (1, 2) for _, bias in calls)


def test_dropout_keeps_the_mean(calls):
    """The weights of a row sum up to one in the mean, and not each time."""
    module = adapters_module = hf.models.visual_bert.modeling_visual_bert.VisualBertSelfAttention(
        hf.VisualBertConfig(**{**hf_models.TEXT, "hidden_size": 4}, attention_probs_dropout_prob=0.25)
    )
    nn.init.zeros_(module.value.weight)
    nn.init.ones_(module.value.bias)
    integration.patch(adapters_module)
    x = torch.randn(64, 60, 4)
    out = module(x)[0]
    assert out.std() > 0.01
    assert abs(out.mean() - 1) < 0.01
    torch.testing.assert_close(module.eval()(x)[0], torch.ones_like(x))


def test_what_is_no_plain_layer_is_not_read():
    """As another library replaces a layer, or listens to it."""
    model, inputs = hf_models.build(hf_models.visual_bert)

    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    heard = []
    for layer in model.encoder.layer:
        layer.output.dense.__class__ = Doubled
        layer.intermediate.dense.register_forward_hook(lambda *_: heard.append(1))
    expected = outputs(model, inputs)
    integration.patch(model)
    heard.clear()
    for x, y in zip(outputs(model, inputs), expected, strict=True):
        torch.testing.assert_close(x, y)
    assert len(heard) == 2


def test_nothing_to_patch_is_an_error():
    with pytest.raises(ValueError, match="Sequential has no module to patch"):
        integration.patch(nn.Sequential(nn.Dropout()))
    layer = nn.Linear(2, 2)
    layer.forward = lambda x: x
    with pytest.raises(ValueError, match="forward of 0 is not its class's any more"):
        integration.patch(nn.Sequential(layer))


def test_half_precision_and_copies():
    model, inputs = hf_models.build(hf_models.visual_bert)
    model = model.bfloat16()
    inputs = {name: x.bfloat16() if x.is_floating_point() else x for name, x in inputs.items()}
    ours = copy.deepcopy(switched_on(hf_models.visual_bert, model))
    assert ours.encoder.layer[0].attention.self.forward.__self__ is ours.encoder.layer[0].attention.self
    for x, y in zip(outputs(ours, inputs), outputs(model, inputs), strict=True):
        assert x.dtype == y.dtype
        torch.testing.assert_close(x, y, rtol=0.05, atol=0.05)


def test_what_is_not_known_is_refused():
    q = torch.randn(1, 2, 3, 4)
    for name in ("softcap", "s_aux", "sinks", "indices", "block_indices"):
        with pytest.raises(ValueError, match=f"does not know {name}, which Linear asks for"):
            integration._attention(nn.Linear(1, 1), q, q, q, None, **{name: q})
    integration._attention(nn.Linear(1, 1), q, q, q, None, block_indices=None)


# What masks say already, and what is of flash attention alone.
HARMLESS = {
    "attention_mask", "cu_seq_lens_k", "cu_seq_lens_q", "deterministic", "dropout", "is_causal", "key", "max_length_k",
    "max_length_q", "output_attentions", "position_bias", "position_ids", "query", "scaling", "sliding_window",
    "use_top_left_mask", "value",
}  # fmt: skip


def test_every_argument_of_a_model_is_known():
    """Of those that the sources of transformers name where they call an attention."""
    named = set()
    for file in Path(hf.__path__[0], "models").glob("*/modeling_*.py"):
        text = file.read_text(encoding="utf-8")
        for call in re.findall(r"attention_interface\(((?:[^()]|\([^()]*\))*)\)", text):
            named.update(re.findall(r"(\w+)=(?!=)", call))
    assert "scaling" in named
    assert named - HARMLESS <= set(integration._REFUSED)


def test_registering_is_undone():
    assert integration.register() == "xmkern"
    integration.unregister()
    with pytest.raises(RuntimeError, match="no attention is registered as 'xmkern'"):
        integration.unregister()
    integration.register()


def test_t5_in_half_precision():
    """Its residual is float32, as one projection stays it; and norms are asked for other dtypes under autocast."""
    config = hf_models.t5()[1]
    model = hf.T5EncoderModel(config).half().eval()
    for layer in model.encoder.block:
        layer.layer[-1].DenseReluDense.wo.float()
    words = torch.randint(3, 50, (2, 5))
    expected = model(words).last_hidden_state
    integration.patch(model)
    found = model(words).last_hidden_state
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)
    norm = hf.models.t5.modeling_t5.T5LayerNorm(8)
    x = torch.randn(3, 8).bfloat16()
    expected = norm(x)
    integration.patch(norm)
    torch.testing.assert_close(norm(x), expected)


class DropPath(nn.Module):
    def forward(self, x):
        return 0 * x


def listened(layer):
    layer.heard = []
    layer.register_forward_hook(lambda *_: layer.heard.append(1))


def wrapped(layer):
    layer.forward = partial(lambda forward, x: 2 * forward(x), layer.forward)


@pytest.mark.parametrize(
    "change",
    [
        lambda intermediate, output: setattr(intermediate, "intermediate_act_fn", nn.Tanh()),
        lambda intermediate, output: setattr(output, "dropout", DropPath()),
        lambda intermediate, output: wrapped(intermediate.intermediate_act_fn),
        lambda intermediate, output: wrapped(intermediate.dense),
        lambda intermediate, output: wrapped(output.LayerNorm),
        lambda intermediate, output: wrapped(output.dropout),
        lambda intermediate, output: nn.utils.parametrizations.weight_norm(output.dense),
    ],
    ids=["activation", "dropout", "around activation", "around dense", "around norm", "around dropout", "weight_norm"],
)
def test_what_changes_after_patching_counts(change):
    model, inputs = hf_models.build(hf_models.visual_bert)
    integration.patch(model)
    for layer in model.encoder.layer:
        change(layer.intermediate, layer.output)
    found = outputs(model, inputs)
    for module in model.modules():  # by the classes' own, as others have wrapped some
        if adapters.is_served(module):
            integration.become(module, module._xmkern_own)
    assert not any(map(adapters.is_served, model.modules()))
    for x, y in zip(found, outputs(model, inputs), strict=True):
        torch.testing.assert_close(x, y)


def test_hooks_of_what_is_read_are_called():
    model, inputs = hf_models.build(hf_models.visual_bert)
    integration.patch(model)
    layer = model.encoder.layer[0]
    read = [layer.intermediate.intermediate_act_fn, layer.output.dropout, layer.attention.self.dropout]
    for each in read:
        listened(each)
    model(**inputs)
    assert [each.heard for each in read] == [[1]] * 3


def test_copies_and_pickles_have_weights_of_their_own():
    model, inputs = hf_models.build(hf_models.visual_bert)
    changed, expected = integration.patch(model), outputs(model, inputs)
    shallow = copy.copy(linear := model.encoder.layer[0].output.dense)
    shallow._parameters = {name: torch.zeros_like(x) for name, x in linear.named_parameters()}
    replica = linear._replicate_for_data_parallel()
    replica._parameters = shallow._parameters
    x = torch.randn(2, linear.in_features)
    for twin in (shallow, replica):
        assert adapters.is_served(twin)
        assert not twin(x).any()
    assert linear(x).any()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        for x, y in zip(outputs(twin, inputs), expected, strict=True):
            assert torch.equal(x, y)
        nn.init.zeros_(twin.encoder.layer[0].output.dense.weight)
        assert not torch.equal(outputs(twin, inputs)[0], expected[0])
        assert integration.unpatch(twin) == changed
    assert isinstance(linear, nn.Linear)


def test_undoing_what_others_have_put_on_top():
    model = nn.Sequential(nn.Linear(4, 4))
    integration.patch(model)
    nn.utils.parametrizations.weight_norm(model[0])
    expected = model(x := torch.randn(2, 4))
    assert integration.unpatch(model) == {"Linear": 1}
    torch.testing.assert_close(model(x), expected)
    nn.utils.parametrize.remove_parametrizations(model[0], "weight")
    assert type(model[0]) is nn.Linear
    integration.patch(model)
    wrapped(model[0])
    with pytest.raises(ValueError, match="forward of 0 is not its class's any more; unpatch after others unwrap it"):
        integration.unpatch(model)


@pytest.mark.parametrize("name", ["Llama4VisionAttention", "Llama4TextAttention", "TimesFmAttention"])
def test_a_file_names_its_eager_attentions_as_it_likes(name):
    file = {"L": hf.models.llama4.modeling_llama4, "T": hf.models.timesfm.modeling_timesfm}[name[0]]
    names = {
        "Llama4VisionAttention": "vision_eager",
        "Llama4TextAttention": "eager",
        "TimesFmAttention": "simple_eager",
    }
    module = getattr(file, name).__new__(getattr(file, name))
    assert integration._eager(module) is getattr(file, f"{names[name]}_attention_forward")
    with pytest.raises(ValueError, match="forward of Linear names no eager attention"):
        integration._eager(nn.Linear(1, 1))
