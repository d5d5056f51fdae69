"""Class activation maps of given activations and gradients, by hand and by loops."""

import numpy as np
import pytest
import torch

from odsg_lightning.errors import UserInputError
from odsg_lightning.explainers.features import normalised, upsampled
from odsg_lightning.explainers.grad_cam import GradCAM, grad_cam
from odsg_lightning.explainers.layer_cam import layer_cam
from odsg_lightning.explainers.odam import ODAM, odam
from odsg_lightning.explainers.ss_grad_cam import (
    SSGradCAMPlusPlus,
    instance_mask,
    sensitivity,
    ss_grad_cam,
    ss_grad_cam_plus_plus,
)

# Two channels of 3x3 cells, small enough for a pencil.
A = torch.tensor([[[1, 0, 2], [0, 3, 0], [1, 0, 1]], [[0, 1, 0], [2, 0, 1], [0, 1, 0]]], dtype=torch.float64)
G = torch.tensor([[[0, 0, 0], [0, 2, 1], [0, 0, -1]], [[0, -4, 0], [1, 0, 0], [0, 0, 0]]], dtype=torch.float64)
MIDDLE = torch.tensor([[0, 0, 0], [0, 1, 1], [0, 0, 0]]).bool()


def random_layer(seed=0, channels=5, size=(4, 6)):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(channels, *size, generator=generator, dtype=torch.float64) for _ in range(2))


def test_by_hand():
    # mean gradients 2/9 and -3/9
    expected = torch.tensor([[2, 0, 4], [0, 6, 0], [2, 0, 2]], dtype=torch.float64) / 9
    torch.testing.assert_close(grad_cam(A, G), expected)
    torch.testing.assert_close(odam(A, G), torch.tensor([[0.0, 0, 0], [2, 6, 0], [0, 0, 0]]).double())
    torch.testing.assert_close(odam(A, G, "abs"), torch.tensor([[0.0, 4, 0], [2, 6, 0], [0, 0, 1]]).double())
    torch.testing.assert_close(layer_cam(A, G), torch.tensor([[0.0, 0, 0], [2, 6, 0], [0, 0, 0]]).double())


def test_positive_and_negative_channels_in_one_cell_by_hand():
    activation, gradient = torch.tensor([[[1.0]], [[3.0]], [[-1.0]]]), torch.tensor([[[4.0]], [[-1.0]], [[0.5]]])
    assert grad_cam(activation, gradient).tolist() == [[0.5]]
    assert odam(activation, gradient).tolist() == [[0.5]]
    assert layer_cam(activation, gradient).tolist() == [[3.5]]  # without the second channel


def test_ss_grad_cam_by_hand():
    # Sensitivities: channel 1 (1, 1/2, 1/2) at the cells (1,1), (1,2), (2,2); channel 2 (1, 1/4) at (0,1), (1,0).
    # Channel 1 adds 2/9 * (1 * 3) at (1,1) and 2/9 * (1/2 * 1) at (2,2); channel 2 takes away.
    expected = torch.tensor([[0, 0, 0], [0, 2 / 3, 0], [0, 0, 1 / 9]], dtype=torch.float64)
    torch.testing.assert_close(ss_grad_cam(A, G), expected)


def test_ss_grad_cam_plus_plus_by_hand():
    # Channel 1: the instance holds A = 3 and 0, sum 3. alpha = g^2 / (2 g^2 M + 3 g^3):
    #   (1,1): 4 / (8 + 24) = 1/8;  (1,2): 1 / (2 + 3) = 1/5;  (2,2): ReLU(g) is 0.  w = 2/8 + 1/5 = 9/20
    # Channel 2: the instance holds A = 0 and 1, sum 1.
    #   (1,0): 1 / (0 + 1) = 1;  (0,1): ReLU(g) is 0.  w = 1
    expected = torch.tensor([[0, 1, 0], [1 / 2, 27 / 20, 0], [0, 0, 9 / 40]], dtype=torch.float64)
    torch.testing.assert_close(ss_grad_cam_plus_plus(A, G, MIDDLE), expected)


def test_ss_grad_cam_plus_plus_as_loops():
    for seed in range(5):
        activation, gradient = random_layer(seed)
        mask = torch.rand(4, 6, generator=torch.Generator().manual_seed(seed)) > 0.5
        a, g, m = activation.numpy(), gradient.numpy(), mask.numpy()
        total = np.zeros((4, 6))
        for k in range(len(a)):
            inside = sum(a[k, i, j] for i in range(4) for j in range(6) if m[i, j])
            weight = 0.0
            for i in range(4):
                for j in range(6):
                    alpha = g[k, i, j] ** 2 / (2 * g[k, i, j] ** 2 * m[i, j] + inside * g[k, i, j] ** 3)
                    weight += alpha * max(g[k, i, j], 0)
            total += weight * np.abs(g[k]) / np.abs(g[k]).max() * a[k]
        found = ss_grad_cam_plus_plus(activation, gradient, mask).numpy()
        np.testing.assert_allclose(found, np.maximum(total, 0), rtol=1e-9, atol=1e-12)


def test_a_gradient_that_is_the_same_everywhere_makes_ss_grad_cam_grad_cam():
    activation, gradient = random_layer()
    constant = gradient[:, :1, :1].expand_as(gradient)
    torch.testing.assert_close(ss_grad_cam(activation, constant), grad_cam(activation, constant))


def test_a_gradient_in_one_cell_leaves_the_others_zero():
    activation, gradient = random_layer()
    alone = torch.zeros_like(gradient)
    alone[:, 2, 3] = gradient[:, 2, 3].abs()
    activation = activation.abs()
    everything = torch.ones(4, 6, dtype=torch.bool)
    for cam in (odam, layer_cam, ss_grad_cam, lambda a, g: ss_grad_cam_plus_plus(a, g, everything)):
        found = cam(activation, alone)
        assert found[2, 3] > 0
        found[2, 3] = 0
        assert not found.any()
    assert grad_cam(activation, alone).count_nonzero() > 1  # which is what the others mend


def test_a_channel_without_gradient_has_no_sensitivity():
    gradient = torch.stack([torch.zeros(2, 2), torch.tensor([[0.0, -4], [2, 0]])])
    assert sensitivity(gradient).tolist() == [[[0, 0], [0, 0]], [[0, 1], [0.5, 0]]]


@pytest.mark.parametrize(
    ("box", "instance", "expected"),
    [
        ([1.0, 0.0, 2.0, 2.0], "box", [[0, 1, 0], [0, 1, 0]]),
        ([0.9, 0.5, 2.1, 0.6], "box", [[1, 1, 1], [0, 0, 0]]),
        ([0.9, 0.5, 2.1, 1.9], "cell", [[0, 0, 0], [0, 1, 0]]),
        ([-9.0, -9.0, -8.0, -8.0], "box", [[1, 0, 0], [0, 0, 0]]),
        ([90.0, 90.0, 98.0, 98.0], "cell", [[0, 0, 0], [0, 0, 1]]),
    ],
)
def test_cells_of_an_instance(box, instance, expected):
    assert instance_mask(torch.tensor(box), (2, 3), instance).int().tolist() == expected


def test_a_map_of_cells_is_interpolated_to_the_padded_image_and_cropped():
    """By hand: cell j has its centre at the pixel coordinate (j + 1/2) * stride, pixel x at x + 1/2."""
    cells = torch.tensor([[0.0, 1.0, 5.0]])
    [row] = upsampled(cells, 4, (1, 10)).tolist()
    for x, value in enumerate(row):
        position = (x + 0.5) / 4 - 0.5
        left = min(max(int(np.floor(position)), 0), 1)
        share = min(max(position - left, 0.0), 1.0)
        assert value == pytest.approx(float(cells[0, left] * (1 - share) + cells[0, left + 1] * share))


def test_a_map_that_says_nothing_is_undefined():
    for values in (torch.zeros(2, 2), torch.full((2, 2), 3.0), torch.tensor([[0.0, torch.nan]])):
        assert normalised(values).isnan().all()


@pytest.mark.parametrize("parameters", [(), ("x",), ("score", "score"), "score"])
def test_parameters_are_checked(parameters):
    with pytest.raises(UserInputError, match=r"Expected argument `parameters` to name some of \('x_min'.*each once"):
        GradCAM(parameters=parameters)


def test_settings_are_checked():
    with pytest.raises(UserInputError, match=r"Expected argument `sign` to be one of \('positive', 'abs'\), but got"):
        ODAM(sign="negative")
    with pytest.raises(UserInputError, match=r"Expected argument `instance` to be one of \('box', 'cell'\), but got"):
        SSGradCAMPlusPlus(instance="mask")
    with pytest.raises(UserInputError, match="Expected argument `layer` to be the name of a layer, but got 5"):
        GradCAM(layer=5)
