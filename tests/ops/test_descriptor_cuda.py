"""Compare descriptors on a CUDA device with the CPU. Without a device, test_*_blocks.py run the kernels' source."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

import preimage
from conftest import photographs
from layouts import LAYOUTS
from tolerances import CUDA

pytestmark = pytest.mark.gpu
if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

OPS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "hog": preimage.hog,
    "hog strongest": lambda x: preimage.hog(x, color="strongest"),
    "hog, cells of 5": lambda x: preimage.hog(x, cell_size=5),
    "hog, dalal-triggs": lambda x: preimage.hog(x, variant="dalal-triggs", block_size=2),
    "hog, dalal-triggs, strongest": lambda x: preimage.hog(
        x, variant="dalal-triggs", cell_size=(5, 8), block_size=(3, 2), color="strongest", orientations=20
    ),
    "lbp": preimage.lbp,
    "lbp, cells of 6": lambda x: preimage.lbp(x, cell_size=6),
    "lbp_codes": preimage.lbp_codes,
    "dense_sift": preimage.dense_sift,
    "dense_sift flat": lambda x: preimage.dense_sift(x, window="flat"),
    "dense_sift, step 3, bins of 5": lambda x: preimage.dense_sift(x, step=3, bin_size=5),
}
EXACT = {name for name in OPS if name.startswith("lbp")}
DIFFERENTIABLE = {name for name in OPS if not name.startswith("lbp")}


def batch(count: int = 3, height: int = 157, width: int = 203) -> torch.Tensor:
    """Return (B, 3, H, W) uint8 crops of photographs, with a little noise, because flat patches have no SIFT."""
    crops = [torch.from_numpy(photo[40 : 40 + height, 60 : 60 + width]) for photo in photographs().values()]
    images = torch.stack(crops[:count]).permute(0, 3, 1, 2)
    noise = torch.randint(0, 8, images.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return (images.clamp(max=248) + noise).contiguous()


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Fill memory so that values that a kernel does not write are NaN or invalid labels."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def agree(name: str, found: torch.Tensor, expected: torch.Tensor) -> None:
    """Check that results on the device are equal to the bit, or within the tolerance of the table."""
    assert found.is_cuda and found.dtype == expected.dtype and found.shape == expected.shape
    if name in EXACT:
        assert torch.equal(found.cpu(), expected)
    elif expected.numel():
        assert (found.cpu() - expected).abs().max().item() <= CUDA


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_cuda_agrees_with_the_cpu(name: str, layout: str) -> None:
    images = LAYOUTS[layout](batch() if layout == "bytes" else batch().float() / 255)
    agree(name, OPS[name](images.cuda()), OPS[name](images))


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("size", [(16, 16), (17, 31), (64, 1000), (513, 511)])
def test_sizes(name: str, size: tuple[int, int]) -> None:
    images = torch.rand(1, 1, *size)
    agree(name, OPS[name](images.cuda()), OPS[name](images))


@pytest.mark.parametrize("name", sorted(DIFFERENTIABLE))
def test_gradients_as_on_the_cpu(name: str) -> None:
    images = batch(2, 61, 83).float() / 255
    found = {}
    for device in ("cpu", "cuda"):
        source = images.to(device).requires_grad_()
        features = OPS[name](source)
        weights = torch.linspace(-1, 1, features.numel(), device=device).reshape(features.shape).sin()
        (gradient,) = torch.autograd.grad((features * weights).sum(), source)
        found[device] = gradient.cpu()
    assert (found["cuda"] - found["cpu"]).norm() <= CUDA * found["cpu"].norm()


@pytest.mark.parametrize("name", OPS)
def test_a_thousand_calls_return_equal_features(name: str) -> None:
    images = batch().cuda()
    first = OPS[name](images)
    for _ in range(1000):
        assert torch.equal(OPS[name](images), first)


@pytest.mark.parametrize("name", OPS)
def test_ops_run_on_the_stream_of_the_caller(name: str) -> None:
    images = batch().float() / 255
    expected = OPS[name]((images * images).contiguous())
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        source = images.cuda()
        torch.cuda._sleep(10_000_000)  # a kernel that does not wait for this stream reads too early
        found = OPS[name](source * source)
    stream.synchronize()
    agree(name, found, expected)


@pytest.mark.parametrize("name", OPS)
def test_ops_run_in_a_cuda_graph(name: str) -> None:
    source = torch.zeros(2, 3, 96, 128, device="cuda")
    OPS[name](source)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = OPS[name](source)
    for images in (torch.rand(2, 3, 96, 128), batch(2, 96, 128).float() / 255):
        source.copy_(images)
        graph.replay()
        agree(name, found, OPS[name](images))


@pytest.mark.parametrize("name", OPS)
def test_calls_do_not_synchronize_with_the_device(name: str) -> None:
    images = batch().cuda()
    OPS[name](images)
    begin, end = torch.cuda.Event(), torch.cuda.Event()
    torch.cuda.synchronize()
    torch.cuda._sleep(2_000_000_000)  # about a second
    begin.record()
    OPS[name](images)
    end.record()
    assert not begin.query()  # the call returned while the device was still waiting
    torch.cuda.synchronize()


@pytest.mark.parametrize("name", OPS)
def test_more_than_two_to_the_31_elements(name: str) -> None:
    count, height, width = 1100, 1024, 2048
    if torch.cuda.mem_get_info()[0] < 30 << 30:
        pytest.skip("needs 30 GiB of device memory")
    if name.startswith("dense_sift"):
        count = 160  # 160 * 128 * 253 * 509 values
    torch.use_deterministic_algorithms(False)  # poisoning this much takes long
    images = torch.randint(0, 256, (count, 1, height, width), dtype=torch.uint8, device="cuda")
    features = OPS[name](images)
    for index in (0, count - 1):
        assert torch.equal(features[index], OPS[name](images[index : index + 1])[0])
