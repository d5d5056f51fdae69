"""Layer-wise relevance propagation by PyTorch's autograd, whose derivatives are changed while a network runs.

Bach et al., "On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise Relevance Propagation", PLoS
ONE 2015; the composite of rules as in Dreyer et al., "Revealing Hidden Context Bias in Segmentation and Object
Detection through Concept-specific Explanations" (CVPR Workshops 2023).

What travels back is not the relevance of an activation but ``c = relevance / activation``. Then most of a network needs
no rule: a sum that passes ``c`` to both summands splits the relevance in proportion to them (residual blocks, pyramids,
biases), a ReLU passes all, a maximum passes it to the winner, and RoIAlign, means and nearest upsampling share it as
they share the activation. That is what autograd does anyway. Only convolutions and linear layers are changed.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.grad import conv2d_input
from torch.overrides import TorchFunctionMode

from odsg_lightning.errors import UserInputError

Rule = Literal["zplus", "epsilon", "flat"]

_NO_RULE = frozenset(
    {
        functional.group_norm, functional.layer_norm, functional.instance_norm, functional.silu, functional.gelu,
        functional.conv_transpose2d, functional.scaled_dot_product_attention, functional.multi_head_attention_forward,
    }
)  # fmt: skip


class RelevanceMode(TorchFunctionMode):
    """While it is entered, convolutions and linear layers propagate relevance instead of derivatives.

    A batch norm with fixed statistics behind a convolution, ``F.batch_norm`` or Detectron2's product and sum, becomes
    part of it. A graph that was built inside stays as it is outside. From where the network's input requires a
    gradient, ``autograd.grad(output, input) * input`` is the relevance of the input for ``output``, which is the sum of
    the relevance there; after a first convolution of rule ``"flat"`` it is ``autograd.grad(output, input)`` itself.

    Args:
        convolution: rule of convolutions. ``"zplus"`` shares the relevance of a unit among its inputs in proportion to
            their positive contributions; ``"epsilon"`` in proportion to all, with a little added to the denominator.
        first: of the convolution that sees the input. ``"flat"`` gives each pixel of its window the same.
        epsilon: of the epsilon rule, in convolutions and in linear layers; 0 makes it gradient times input.

    Attributes:
        lost: relevance of units that had no positive input at all, or no contribution, of the backward passes so far:
            it goes nowhere.
        lost_units: the number of these units.

    Raises:
        UserInputError: inside, a layer for which there is no rule.

    Example:
        >>> x, weight = torch.tensor([[1.0, 2.0]], requires_grad=True), torch.tensor([[3.0, -1.0]])
        >>> with RelevanceMode(epsilon=0):
        ...     y = functional.linear(x, weight)
        >>> x * torch.autograd.grad(y, x)[0]
        tensor([[ 3., -2.]], grad_fn=<MulBackward0>)
    """

    def __init__(self, convolution: Rule = "zplus", first: Rule = "flat", epsilon: float = 1e-6) -> None:
        """See the class for the arguments."""
        super().__init__()
        self._convolution, self._first, self._epsilon = convolution, first, epsilon
        self.lost, self.lost_units = 0.0, 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """See PyTorch's :class:`~torch.overrides.TorchFunctionMode`."""
        kwargs = kwargs or {}
        if func is functional.conv2d:
            layer = _Layer.of_convolution(*args, **kwargs)
            sees_input = layer.inputs.is_leaf and layer.inputs.requires_grad
            return self._outputs(layer, self._first if sees_input else self._convolution)
        if func is functional.linear:
            inputs, weight, *bias = args
            return self._outputs(_Layer(inputs, weight, bias[0] if bias else kwargs.get("bias"), None), "epsilon")
        folded = self._folded(func, args, kwargs)
        if folded is not None:
            return folded
        if func in _NO_RULE and any(isinstance(value, Tensor) and value.requires_grad for value in args):
            raise UserInputError(
                "Expected a detector of convolutions, linear layers, ReLUs and fixed batch norms for LRP, but it calls "
                f"{func.__name__}, for which there is no rule here."
            )
        return func(*args, **kwargs)

    def _outputs(self, layer: "_Layer", rule: Rule) -> Tensor:
        outputs: Tensor = _Propagate.apply(layer.inputs, layer, rule, self)  # type: ignore[no-untyped-call]
        outputs._odsg_layer = layer, rule, outputs._version  # type: ignore[attr-defined]
        return outputs

    def _folded(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """Return the outputs of a convolution and what scales or shifts its channels by constants, as one layer."""
        layer, rule, version = getattr(args[0] if args else None, "_odsg_layer", (None, None, None))
        if layer is None or rule is None or layer.settings is None or args[0]._version != version:  # changed in place
            return None
        if func is functional.batch_norm:
            return self._outputs(layer.normalised(*args[1:], **kwargs), rule)
        other = args[1] if len(args) == 2 else None
        constant = isinstance(other, Tensor) and not other.requires_grad and other.shape[2:] == (1, 1)
        if constant and func is Tensor.mul:
            return self._outputs(layer.scaled(other), rule)
        if constant and func is Tensor.add:
            return self._outputs(layer.shifted(other), rule)
        return None


@dataclass(frozen=True, eq=False)
class _Layer:
    """A convolution or linear layer as it is applied: ``inputs`` by ``weight`` plus ``bias``.

    ``settings`` are stride, padding, dilation and groups; None for a linear layer.
    """

    inputs: Tensor
    weight: Tensor
    bias: Tensor | None
    settings: tuple[Any, Any, Any, int] | None

    @staticmethod
    def of_convolution(
        input: Tensor,  # as PyTorch calls it
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> "_Layer":
        return _Layer(input, weight.detach(), bias, (stride, padding, dilation, groups))

    def scaled(self, scale: Tensor) -> "_Layer":
        scale = scale.detach().flatten()
        bias = None if self.bias is None else self.bias * scale
        return _Layer(self.inputs, self.weight * scale[:, None, None, None], bias, self.settings)

    def shifted(self, shift: Tensor) -> "_Layer":
        shift = shift.detach().flatten()
        return _Layer(self.inputs, self.weight, shift if self.bias is None else self.bias + shift, self.settings)

    def normalised(
        self,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> "_Layer":
        if training or running_mean is None or running_var is None:
            raise UserInputError("Expected batch norms with fixed statistics for LRP: call .eval() first.")
        scale = (running_var + eps).rsqrt() * (1 if weight is None else weight.detach())
        scaled = self.shifted(-running_mean).scaled(scale)
        return scaled if bias is None else scaled.shifted(bias)

    def apply(self, inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return outputs of other inputs and weights of this layer's shape."""
        if self.settings is None:
            return functional.linear(inputs, weight, bias)
        return functional.conv2d(inputs, weight, bias, *self.settings)

    def transposed(self, cotangent: Tensor, weight: Tensor) -> Tensor:
        """Carry ``[N, C_out, ...]`` back to the inputs."""
        if self.settings is None:
            return cotangent @ weight
        found: Tensor = conv2d_input(self.inputs.shape, weight, cotangent, *self.settings)  # type: ignore[no-untyped-call]
        return found


class _Propagate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, layer: _Layer, rule: Rule, mode: RelevanceMode) -> Tensor:
        ctx.layer, ctx.rule, ctx.mode, ctx.shares = layer, rule, mode, None
        return layer.apply(layer.inputs, layer.weight, layer.bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        layer, rule, mode = ctx.layer, ctx.rule, ctx.mode
        if ctx.shares is None:  # of the first candidate; most convolutions are folded into others and never get here
            ctx.shares = _shares(layer, rule, mode._epsilon)
        factor, weights, empty = ctx.shares
        cotangent = gradients[0] * factor
        if empty is not None:
            without = gradients[0] * empty
            mode.lost += float(without.sum())
            mode.lost_units += int((without != 0).sum())
        found = None
        for weight, where in weights:
            part = layer.transposed(cotangent, weight)
            part = part if where is None else part * where
            found = part if found is None else found + part
        return found, None, None, None


def _shares(layer: _Layer, rule: Rule, epsilon: float) -> tuple[Tensor, list[tuple[Tensor, Tensor | None]], Any]:
    """Return how a layer gives relevance to its inputs.

    Returns:
        By what ``c`` of each output is multiplied, ``activation / denominator``; the weights that then carry it back,
        each with the inputs that it concerns, None for all; and the activation of outputs that can give nothing, zero
        elsewhere, None if there are no such outputs.
    """
    inputs, weight = layer.inputs.detach(), layer.weight
    outputs = layer.apply(inputs, weight, None if layer.bias is None else layer.bias.detach())
    weights: list[tuple[Tensor, Tensor | None]]
    if rule == "flat":
        ones = torch.ones_like(weight)
        denominator, weights = layer.apply(torch.ones_like(inputs), ones), [(ones, None)]
    elif rule == "epsilon":
        sign = torch.where(outputs < 0, -1.0, 1.0).to(outputs)
        denominator, weights = outputs + epsilon * sign, [(weight, None)]
    else:
        positive, negative = weight.clamp(min=0), weight.clamp(max=0)
        denominator, weights = layer.apply(inputs.clamp(min=0), positive), [(positive, None)]
        if (inputs < 0).any():
            denominator = denominator + layer.apply(inputs.clamp(max=0), negative)
            weights = [(positive, inputs > 0), (negative, inputs < 0)]
    gives = denominator != 0
    empty = None if gives.all() else outputs.where(~gives, 0)
    return torch.where(gives, outputs / denominator.where(gives, 1), 0), weights, empty
