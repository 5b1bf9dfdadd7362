"""What the calls say about arguments that they cannot take."""

import pytest
import torch

import xmkern.functional as xf

X, V = torch.zeros(3, 5, 8), torch.zeros(8)
NESTED = torch.nested.nested_tensor([torch.zeros(2, 8), torch.zeros(3, 8)])

WRONG = [
    (lambda: xf.add_layer_norm([1.0]), TypeError, "x must be a tensor, not list"),
    (
        lambda: xf.add_layer_norm(X.int()),
        TypeError,
        "x must be of float32, bfloat16, float16 or float64, not torch.int32",
    ),
    (lambda: xf.add_layer_norm(NESTED), TypeError, "x must be dense, not nested"),
    (lambda: xf.add_layer_norm(X.to_sparse()), TypeError, "x must be dense, not of layout torch.sparse_coo"),
    (lambda: xf.add_layer_norm(X.sum()), ValueError, r"x must have a last axis D of at least 1, not shape \[\]"),
    (
        lambda: xf.bias_activation(X[..., :0]),
        ValueError,
        r"x must have a last axis D of at least 1, not shape \[3, 5, 0\]",
    ),
    (lambda: xf.add_layer_norm(X, X[0]), ValueError, r"residual must be of shape \[3, 5, 8\] as x is, not \[5, 8\]"),
    (lambda: xf.add_layer_norm(X, 1.0), TypeError, "residual must be a tensor, not float"),
    (lambda: xf.add_layer_norm(X, X, V[:7]), ValueError, r"weight must be of shape \[D\] = \[8\] .*, not \[7\]"),
    (lambda: xf.add_layer_norm(X, X, linear_bias=X), ValueError, r"linear_bias must be of shape \[D\] = \[8\]"),
    (lambda: xf.add_layer_norm(X, X, V.to("meta")), ValueError, "weight must be on cpu as x is, not on meta"),
    (lambda: xf.add_layer_norm(X, dropout_p=1.5), ValueError, "dropout_p must be 0 to 1, not 1.5"),
    (lambda: xf.add_layer_norm(X, eps=-1.0), ValueError, "eps must be at least 0, not -1.0"),
    (lambda: xf.add_rms_norm(X, eps=V), TypeError, "eps must be a number, not Tensor"),
    (lambda: xf.add_layer_norm(X, backend="gpu"), ValueError, "backend must be 'auto' or one of 'cpu', "),
    (lambda: xf.add_layer_norm(X.double(), backend="cpu"), ValueError, "the kernels take .*, not torch.float64"),
    (lambda: xf.bias_dropout_add(X, None), TypeError, "residual must be a tensor, not None"),
    (lambda: xf.sandwich_layer_norm(X, None), TypeError, "residual must be a tensor, not None"),
    (lambda: xf.sandwich_layer_norm(X, X, next_weight=V), ValueError, "next_norm must be True where next_weight"),
    (lambda: xf.gated_residual(X, None), TypeError, "residual must be a tensor, not None"),
    (lambda: xf.gated_residual(X, X, X[:1]), ValueError, r"gate must be of shape \[\], \[1\], \[D\] = \[8\] or"),
    (lambda: xf.gated_residual(X, X, 0.5), TypeError, "gate must be a tensor, not float"),
    (lambda: xf.gated_residual(X, X, V, activation="relu"), ValueError, "activation must be 'tanh', 'sigmoid' or None"),
    (lambda: xf.gated_residual(X, X, activation="tanh"), ValueError, "gate must be given where activation is, 'tanh'"),
    (lambda: xf.bias_activation(X, V, "elu"), ValueError, "activation must be one of 'gelu', .*, not 'elu'"),
    (
        lambda: xf.gated_activation(X[..., :7]),
        ValueError,
        r"x must be \[..., 2 D\], with an even last axis, not of shape",
    ),
]


@pytest.mark.parametrize(("call", "kind", "message"), WRONG)
def test_a_wrong_argument_is_named(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
