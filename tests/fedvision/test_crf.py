"""The conditional random field: marginals by hand and against every pair written out, and where it is used."""

import math

import numpy as np
import pytest
import torch
from segments import experiment
from torch import Tensor

from fedvision.data.federation import open_federated
from fedvision.evaluation import measure, predicted
from fedvision.models import build
from fedvision.segmenting import Crf
from fedvision.tasks import task_of
from fedvision.tasks.crf import refined


def test_one_step_on_three_pixels_by_hand() -> None:
    """A line of three, the last of another colour: weights 2 and 1, all σ 1, two classes, logits of class 1 a, b, c and of class 0 none."""
    a, b, c, colour = 2.0, -1.0, 0.5, 1.5
    logits = torch.tensor([[0.0, 0, 0], [a, b, c]]).reshape(1, 2, 1, 3)
    image = torch.tensor([0.0, 0.0, colour]).reshape(1, 1, 1, 3)
    crf = Crf(similar=2.0, similar_space=1.0, similar_colour=1.0, near=1.0, near_space=1.0, reach=2, iterations=1)
    one, two, far = math.exp(-0.5), math.exp(-2.0), math.exp(-(colour**2) / 2)
    alike = {(0, 1): one, (0, 2): two * far, (1, 2): one * far}
    near = {(0, 1): one, (0, 2): two, (1, 2): one}

    def scaled(kernel: dict[tuple[int, int], float], i: int, j: int) -> float:
        own = [sum(v for pair, v in kernel.items() if n in pair) for n in (i, j)]
        return kernel[min(i, j), max(i, j)] / math.sqrt(own[0] * own[1])

    q = [1 / (1 + math.exp(-x)) for x in (a, b, c)]
    wanted = []
    for i, x in enumerate((a, b, c)):
        join = {j: 2 * scaled(alike, i, j) + scaled(near, i, j) for j in range(3) if j != i}
        wanted.append(x + sum(w * q[j] for j, w in join.items()) - sum(w * (1 - q[j]) for j, w in join.items()))
    found = refined(logits, image, crf)[0, :, 0]
    assert (found[1] - found[0]).tolist() == pytest.approx(wanted, rel=1e-5)


def by_all_pairs(logits: Tensor, image: Tensor, crf: Crf) -> Tensor:
    """[K,...] of one image, the N × N kernels written out."""
    place = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in logits.shape[1:]), indexing="ij")).flatten(1).T
    colour, u = image.flatten(1).T, logits.flatten(1).T
    far, unlike = torch.cdist(place, place).square(), torch.cdist(colour, colour).square()
    kernels = [
        (crf.similar, torch.exp(-far / (2 * crf.similar_space**2) - unlike / (2 * crf.similar_colour**2))),
        (crf.near, torch.exp(-far / (2 * crf.near_space**2))),
    ]
    join = torch.zeros(len(u), len(u))
    for weight, kernel in kernels:
        kernel = kernel.fill_diagonal_(0)
        scale = kernel.sum(1).rsqrt()
        join += weight * scale[:, None] * kernel * scale
    x = u
    for _ in range(crf.iterations):
        x = u + join @ x.softmax(1)
    return x.T.reshape(logits.shape)


@pytest.mark.parametrize(("sides", "channels"), [((6, 9), 3), ((3, 4, 5), 1), ((1, 12), 2)])
def test_it_is_the_sum_over_all_pairs_in_the_plane_and_in_space(sides: tuple[int, ...], channels: int) -> None:
    chance = torch.Generator().manual_seed(0)
    logits, images = torch.randn(2, 4, *sides, generator=chance), torch.randn(2, channels, *sides, generator=chance)
    crf = Crf(similar=1.5, similar_space=4.0, similar_colour=0.8, near=0.5, near_space=2.0, reach=12, iterations=4)
    found = refined(logits, images, crf)
    for n in range(2):
        torch.testing.assert_close(found[n], by_all_pairs(logits[n], images[n], crf), rtol=1e-4, atol=1e-4)


def test_a_wrong_pixel_is_put_right_where_it_looks_like_its_neighbours_and_left_where_it_does_not() -> None:
    logits = torch.zeros(1, 2, 9, 9)
    logits[:, 0] = 1.0
    logits[:, :, 4, 4] = torch.tensor([0.0, 1.0])
    crf = Crf(similar=3.0, near=0.0)
    plain = torch.zeros(1, 1, 9, 9)
    assert refined(logits, plain, crf).argmax(1)[0, 4, 4] == 0
    marked = plain.clone()
    marked[..., 4, 4] = 5.0
    assert refined(logits, marked, crf).argmax(1)[0, 4, 4] == 1


def test_a_single_pixel_has_no_neighbours_and_stays_as_it_is() -> None:
    logits = torch.tensor([0.3, -0.2]).reshape(1, 2, 1, 1)
    assert torch.equal(refined(logits, torch.zeros(1, 1, 1, 1), Crf()), logits)


def test_what_is_measured_is_refined_and_what_is_trained_on_is_not() -> None:
    plain, with_crf = experiment(), experiment(segmentation={"crf": {"similar": 2.0}})
    data = open_federated(with_crf)
    task, model = task_of(with_crf, data.classes), build(with_crf, data.shape, 3)
    batch = data.pooled("test").batch(np.arange(4))
    with torch.inference_mode():
        logits = model(batch.inputs)
        assert torch.equal(predicted(model, task, batch.inputs), refined(logits, batch.inputs, Crf(similar=2.0)))
    assert torch.equal(predicted(model, task_of(plain, data.classes), batch.inputs), logits)
    torch.testing.assert_close(task.loss(logits, batch.targets), task_of(plain, data.classes).loss(logits, batch.targets))
    sums = [measure(model, task_of(e, data.classes), data.pooled("test"), 4, torch.device("cpu")) for e in (plain, with_crf)]
    assert not np.array_equal(sums[0]["confusion"], sums[1]["confusion"])
