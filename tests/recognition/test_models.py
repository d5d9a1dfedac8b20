"""Model files and embedders: registry, fetching, import, preprocessing, known answer, ONNX."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import http.server
import importlib.util
import json
import os
import pickle
import sys
import threading
import time
import urllib.request
import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers import tiny
from torch import nn
from torch.nn import functional as F

from metaface import nets
from metaface.learners.spec import ModelSpec, save_model
from metaface.nets import Norm2d
from metaface.nets.fold import fold_norms
from metaface.nets.weights import read_weights
from metaface.recognition import models
from metaface.recognition.embedders import _onnx_file
from metaface.recognition.embedders.description import KEY, Description
from metaface.recognition.embedders.importing import import_weights
from metaface.recognition.embedders.known import KnownAnswerError, check_known_answer, known_face
from metaface.recognition.embedders.loading import Network, Onnx, Preprocessing, load
from metaface.recognition.embedders.onnx import insightface
from metaface.recognition.models import ModelDamaged, ModelMissing

needs_onnx = pytest.mark.skipif(
    not (importlib.util.find_spec("onnx") and importlib.util.find_spec("onnxruntime")),
    reason="no onnx or onnxruntime: pip install 'metaface[dev]'",
)
needs_timm = pytest.mark.skipif(
    not importlib.util.find_spec("timm"), reason="no timm: pip install 'metaface[timm]'"
)
CASIA = "mobilefacenet_casia"


def crops(count: int, seed: int = 0) -> np.ndarray:
    """Smooth random pictures, uint8 [n, 112, 112, 3]."""
    coarse = torch.rand(count, 3, 9, 9, generator=torch.Generator().manual_seed(seed))
    smooth = F.interpolate(coarse, (112, 112), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round().byte().permute(0, 2, 3, 1).numpy().copy()


def lively(net: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights, gammas, betas and statistics in every layer."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in net.state_dict().items():
        if name.endswith(("running_var", "bn.weight", "norm.weight")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.ndim == 1:
            tensor.uniform_(-0.2, 0.2, generator=generator)
    return net.eval()


@pytest.fixture
def casia(test_data):
    return test_data(f"weights/{CASIA}.ckpt")


@pytest.fixture
def casia_folder(casia):
    return casia.parent


@pytest.fixture(autouse=True)
def nobodys_models(tmp_path, monkeypatch):
    """Keep the user's own models out of the tests."""
    monkeypatch.setenv("METAFACE_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def registered(tmp_path, monkeypatch):
    """A model of 200,000 bytes that lies at a file:// address."""
    data = np.random.default_rng(0).bytes(200_000)
    (tmp_path / "origin.bin").write_bytes(data)
    entry = models.Model(
        "toy",
        "detector",
        ("toy.onnx", "old-name.onnx"),
        len(data),
        hashlib.sha256(data).hexdigest(),
        (tmp_path / "origin.bin").as_uri(),
        "none stated",
    )
    monkeypatch.setitem(models.MODELS, "toy", entry)
    return data


# -- registry and finding ----------------------------------------------------------------------


def test_the_registry_is_whole():
    for name, entry in models.MODELS.items():
        assert entry.name == name and entry.url.startswith("https://") and entry.licence
        assert len(entry.sha256) == 64 and entry.size > 100_000
        assert (entry.kind == "embedder") == bool(entry.preprocessing and entry.known)
    assert "no licence stated" in models.MODELS[CASIA].licence


def test_the_registry_pins_the_files_there_are(test_data):
    folder = test_data("weights")
    for name, entry in models.MODELS.items():
        assert models.find(name, folder) == folder / entry.files[0]
    assert {row.state for row in models.list_models(folder)} == {"present"}


def test_folder_is_given_then_from_the_environment_then_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("METAFACE_MODELS", "~/elsewhere")
    assert models.models_folder("~/given") == tmp_path / "given"
    assert models.models_folder() == tmp_path / "elsewhere"
    monkeypatch.delenv("METAFACE_MODELS")
    assert models.models_folder() == tmp_path / ".cache" / "metaface" / "models"


def test_a_missing_model_says_what_helps(tmp_path):
    with pytest.raises(ModelMissing) as error:
        models.find(CASIA, tmp_path)
    for part in (
        f"metaface models fetch {CASIA}",
        "--models DIR",
        "METAFACE_MODELS",
        str(tmp_path),
        f"{CASIA}.ckpt",
        "no licence stated",
    ):
        assert part in str(error.value)
    assert isinstance(error.value, FileNotFoundError)
    with pytest.raises(ValueError, match=f"no model 'mtcnn': choose one of .*{CASIA}"):
        models.find("mtcnn")


def test_a_damaged_model_is_named_with_what_was_found(tmp_path, registered):
    (tmp_path / "toy.onnx").write_bytes(registered[:-1])
    with pytest.raises(ModelDamaged, match=r"toy\.onnx has 199999 bytes, not 200000.*fetch toy"):
        models.find("toy", tmp_path)
    (tmp_path / "toy.onnx").write_bytes(b"x" + registered[1:])
    with pytest.raises(ModelDamaged, match=r"toy\.onnx has sha256 [0-9a-f]{64}, not [0-9a-f]{64}"):
        models.find("toy", tmp_path)
    assert models.list_models(tmp_path)[-1].state == "damaged"
    (tmp_path / "old-name.onnx").write_bytes(registered)  # a good one beside it is used
    assert models.find("toy", tmp_path) == tmp_path / "old-name.onnx"


def test_available_lists_every_model_and_what_was_imported(tmp_path, registered):
    (tmp_path / "toy.onnx").write_bytes(registered)
    (tmp_path / "own.safetensors").write_bytes(b"1234")
    (tmp_path / "undescribed.onnx").write_bytes(b"1234")
    rows = {row.name: row for row in models.list_models(tmp_path)}
    assert set(rows) == {*models.MODELS, "own"}
    assert rows["toy"] == models.Row(
        "toy", "detector", 200_000, "present", "none stated", tmp_path / "toy.onnx"
    )
    assert rows[CASIA].state == "missing" and rows[CASIA].path is None
    assert rows["own"].state == "imported" and rows["own"].path == tmp_path / "own.safetensors"


# -- fetching ----------------------------------------------------------------------------------


def test_fetch_checks_and_keeps_the_file(tmp_path, registered, caplog):
    folder = tmp_path / "new" / "folder"
    with caplog.at_level("INFO", "metaface"):
        path = models.fetch("toy", folder)
    assert path == folder / "toy.onnx" and path.read_bytes() == registered
    assert [p.name for p in folder.iterdir()] == ["toy.onnx"]
    assert "none stated" in caplog.text
    (tmp_path / "origin.bin").unlink()
    assert models.fetch("toy", folder) == path  # it is there: nothing is fetched


def test_fetch_replaces_a_damaged_file(tmp_path, registered):
    (tmp_path / "toy.onnx").write_bytes(b"half")
    assert models.fetch("toy", tmp_path).read_bytes() == registered


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"x" + data[1:], r"gave sha256 [0-9a-f]{64}, not [0-9a-f]{64}"),
        (lambda data: data[:-5], r"gave 199995 bytes, not 200000"),
        (lambda data: data + bytes(500_000), r"gave more than 200000 bytes, not 200000"),
    ],
)
def test_fetch_leaves_nothing_of_another_file(tmp_path, registered, change, message):
    (tmp_path / "origin.bin").write_bytes(change(registered))
    folder = tmp_path / "folder"
    with pytest.raises(ModelDamaged, match=message):
        models.fetch("toy", folder)
    assert not list(folder.iterdir())


def test_fetch_says_why_it_failed_and_what_to_do(tmp_path, registered, monkeypatch):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            if self.path == "/cut":  # hangs up half-way
                self.send_response(200)
                self.send_header("Content-Length", "200000")
                self.end_headers()
                self.wfile.write(b"x" * 1000)
            else:
                super().do_GET()

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = partial(Quiet, directory=str(tmp_path))
    folder = tmp_path / "folder"
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        at = f"http://127.0.0.1:{server.server_port}"
        toy = models.MODELS["toy"]
        try:
            monkeypatch.setitem(models.MODELS, "toy", replace(toy, url=f"{at}/origin.bin"))
            assert models.fetch("toy", tmp_path / "good").read_bytes() == registered
            monkeypatch.setitem(models.MODELS, "toy", replace(toy, url=f"{at}/nothing"))
            with pytest.raises(ConnectionError, match="404 File not found.*Is there a network"):
                models.fetch("toy", folder)
            monkeypatch.setitem(models.MODELS, "toy", replace(toy, url=f"{at}/cut"))
            with pytest.raises((ConnectionError, ModelDamaged)):
                models.fetch("toy", folder)
        finally:
            server.shutdown()
            thread.join()
    monkeypatch.setitem(models.MODELS, "toy", replace(toy, url=f"{at}/origin.bin"))
    with pytest.raises(ConnectionError, match=f"cannot fetch toy from {at}.*--models DIR"):
        models.fetch("toy", folder)  # nobody answers
    assert not list(folder.iterdir())


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The address of a server on this machine that gives ``tmp_path``, redirects ``/to?ADDRESS``,
    and gives ``/slow`` a byte at a time."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            if self.path.startswith("/to?"):
                self.send_response(302)
                self.send_header("Location", self.path.partition("?")[2])
                self.end_headers()
            elif self.path == "/slow":
                self.send_response(200)
                self.send_header("Content-Length", "200000")
                self.end_headers()
                with contextlib.suppress(OSError):  # the client has hung up
                    while True:
                        self.wfile.write(b"x")
                        time.sleep(0.02)
            else:
                super().do_GET()

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = partial(Handler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as here:
        thread = threading.Thread(target=here.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{here.server_port}"
        here.shutdown()
        thread.join()


def test_fetch_follows_no_redirect_away_from_https(tmp_path, registered, server, monkeypatch):
    class Plain(urllib.request.HTTPSHandler):  # https to that server, without the certificates
        def https_open(self, request):
            return self.do_open(http.client.HTTPConnection, request)

    monkeypatch.setattr("urllib.request.HTTPSHandler", Plain)
    toy, folder = models.MODELS["toy"], tmp_path / "folder"

    def fetch(first: str, second: str) -> bytes:
        url = f"{first}://{server}/to?{second}://{server}/origin.bin"
        monkeypatch.setitem(models.MODELS, "toy", replace(toy, url=url))
        return models.fetch("toy", folder).read_bytes()

    for second in ("http", "HTTP", "ftp"):
        with pytest.raises(ConnectionError, match="redirects to (http|ftp)://.* is not https"):
            fetch("https", second)
        assert not list(folder.iterdir())
    for first, second in (("https", "https"), ("http", "https"), ("http", "http")):
        assert fetch(first, second) == registered
        (folder / "toy.onnx").unlink()


def test_fetch_does_not_wait_for_ever(tmp_path, registered, server, monkeypatch):
    monkeypatch.setattr(models, "_LONGEST", 0.3)
    toy = replace(models.MODELS["toy"], url=f"http://{server}/slow")
    monkeypatch.setitem(models.MODELS, "toy", toy)
    with pytest.raises(ConnectionError, match="toy .* not complete after 0.3 seconds"):
        models.fetch("toy", tmp_path / "folder")
    assert not list((tmp_path / "folder").iterdir())


def test_nothing_but_fetch_opens_the_network(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "urllib.request.OpenerDirector.open", lambda *_, **__: pytest.fail("network")
    )
    for call in (partial(models.find, CASIA), partial(load, CASIA), partial(load, "nobody")):
        with pytest.raises(ModelMissing):
            call(given=tmp_path)
    models.list_models(tmp_path)


# -- preprocessing -----------------------------------------------------------------------------


def test_preprocessing_by_hand():
    face = crops(2)
    got = Preprocessing(columns=(8, 104), mean=127.5, std=128)(face)
    want = (face[:, :, 8:104].transpose(0, 3, 1, 2).astype(np.float32) - 127.5) / 128
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-6, atol=1e-7)
    bgr = Preprocessing(channels="BGR", std=1.0)(face).numpy()
    np.testing.assert_array_equal(bgr, face[..., ::-1].transpose(0, 3, 1, 2))
    grey = Preprocessing(channels="grey", std=1.0)(face).numpy()
    np.testing.assert_allclose(grey[:, 0], face @ np.array([0.299, 0.587, 0.114]), atol=1e-3)
    halved = Preprocessing(size=(56, 28), std=1.0)(np.full((1, 112, 112, 3), 77, np.uint8))
    assert halved.shape == (1, 3, 56, 28) and torch.allclose(halved, torch.tensor(77.0))


def test_preprocessing_goes_through_json():
    one = Preprocessing((8, 104), (56, 48), "BGR", 127.5, 128.0, True)
    assert Preprocessing.from_json(one.to_json()) == one
    assert Preprocessing.from_json("{}") == Preprocessing()
    equal = Preprocessing.from_json('{"mean": 0, "columns": [0, 112]}')
    assert equal.to_json() == Preprocessing().to_json()  # so that digests agree


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("[]", "give a JSON object of columns, "),
        ('{"depth": 3}', "depth"),
        ('{"columns": [8, 113]}', "0 <= first < end <= 112"),
        ('{"columns": [8]}', r"columns=\[8\]"),
        ('{"size": [0, 5]}', r"size=\(0, 5\)"),
        ('{"size": [99999, 5]}', "1 to 4096"),
        ('{"channels": "HSV"}', "choose RGB, BGR or grey"),
        ('{"std": 0}', "std above 0"),
        ('{"mean": NaN}', "finite"),
        ('{"mirror": 1}', "mirror=1"),
    ],
)
def test_wrong_preprocessing_is_refused_by_name(text, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing.from_json(text)


# -- networks ----------------------------------------------------------------------------------


def test_mobilefacenet_is_table_1_of_the_paper():
    net = nets.MobileFaceNet().eval()
    sizes = {}
    for name, module in net.named_modules():
        module.register_forward_hook(lambda m, i, o, n=name: sizes.update({n: o.shape}))
    with torch.no_grad():
        net(torch.zeros(1, 3, 112, 112))
    table = {
        "conv1": (64, 56),
        "dw_conv1": (64, 56),
        "blocks.4": (64, 28),
        "blocks.5": (128, 14),
        "blocks.11": (128, 14),
        "blocks.12": (128, 7),
        "blocks.14": (128, 7),
        "conv2": (512, 7),
        "linear7": (512, 1),
        "linear1": (128, 1),
    }
    assert {n: sizes[n][1:3] for n in table} == table
    # the weights of the convolutions, by the table's t, c, n
    weights, inputs = 3 * 64 * 9 + 64 * 9, 64
    for t, c, n in ((2, 64, 5), (4, 128, 1), (2, 128, 6), (4, 128, 1), (2, 128, 2)):
        for _ in range(n):
            weights += inputs * inputs * t + inputs * t * 9 + inputs * t * c
            inputs = c
    weights += 128 * 512 + 512 * 49 + 512 * 128
    convolutions = [p for p in net.parameters() if p.ndim == 4]
    assert sum(p.numel() for p in convolutions) == weights
    total = sum(p.numel() for p in net.parameters())
    assert abs(total / 0.99e6 - 1) < 0.02  # "0.99 million", Table 2; stored as 4.0 MB


def plain_mobilefacenet(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The published network written out, without any module of ours."""

    def norm(x, name):
        mean, var, gamma, beta = (
            state[f"{name}.{part}"].view(-1, 1, 1).double()
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * gamma + beta

    def conv(x, name, stride, padding):
        w = state[f"{name}.weight"].double()
        return F.conv2d(x, w, None, stride, padding, groups=1 if w.shape[1] > 1 else len(w))

    def prelu(x, name):
        return torch.where(x > 0, x, x * state[f"{name}.weight"].view(-1, 1, 1).double())

    def layer(x, name, stride, padding, active=True):
        x = norm(conv(x, f"{name}.conv", stride, padding), f"{name}.bn")
        return prelu(x, f"{name}.prelu") if active else x

    x = layer(layer(x.double(), "conv1", 2, 1), "dw_conv1", 1, 1)
    for i in range(15):
        at, stride = f"blocks.{i}.conv", 2 if i in (0, 5, 12) else 1
        y = prelu(norm(conv(x, f"{at}.0", 1, 0), f"{at}.1"), f"{at}.2")
        y = prelu(norm(conv(y, f"{at}.3", stride, 1), f"{at}.4"), f"{at}.5")
        y = norm(conv(y, f"{at}.6", 1, 0), f"{at}.7")
        x = x + y if x.shape == y.shape else y
    x = layer(layer(x, "conv2", 1, 0), "linear7", 1, 0, active=False)
    return layer(x, "linear1", 1, 0, active=False).flatten(1)


def test_embeddings_are_the_published_networks_own(casia, casia_folder):
    state = torch.load(casia, map_location="cpu", weights_only=True)["net_state_dict"]
    faces = np.concatenate([known_face(), crops(3)])
    x = torch.from_numpy(faces[:, :, 8:104].astype(np.float64)).permute(0, 3, 1, 2)
    x = (x - 127.5) / 128
    want = F.normalize(plain_mobilefacenet(state, x) + plain_mobilefacenet(state, x.flip(-1)))
    got = load(CASIA, casia_folder)(faces)
    assert got.dtype == np.float32 and got.shape == (4, 128)
    np.testing.assert_allclose(got, want.numpy(), atol=2e-6)


def test_folding_changes_no_answer_and_not_the_network():
    for net, channels, size in (
        (nets.MobileFaceNet(1, (48, 32)), 1, (48, 32)),
        (nets.Backbone("resnet18"), 3, (32, 32)),
        (nets.Backbone("mobilenet_v3_small"), 3, (32, 32)),
        (tiny("frozen"), 3, (16, 16)),
    ):
        before = {n: t.clone() for n, t in lively(net).state_dict().items()}
        x = torch.rand(3, channels, *size, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            fast, want = fold_norms(net, x[:1]), net(x)
            torch.testing.assert_close(
                fast(x), want, rtol=1e-4, atol=1e-4 * float(want.abs().max())
            )
        if not isinstance(net, nets.Conv4):  # which pools inside its normalisation
            assert not any(isinstance(m, Norm2d) for m in fast.modules())
        assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())


def test_a_convolution_used_twice_is_not_folded():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 8, 3), Norm2d(8, "frozen")

        def forward(self, x):
            x = self.conv(x)
            return (self.norm(x) + x).mean((-2, -1))

    net = lively(Twice())
    x = torch.rand(2, 3, 9, 9)
    with torch.no_grad():
        torch.testing.assert_close(fold_norms(net, x)(x), net(x))


@pytest.mark.parametrize("mirror", [False, True])
def test_network_embeds_in_batches_of_bounded_size(mirror):
    seen = []
    net = lively(tiny("frozen"))
    net.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    small = Network(
        net, Preprocessing(size=(16, 16), mirror=mirror), name="tiny", architecture="tiny"
    )
    faces = crops(37)
    seen.clear()
    got = small(faces)
    assert max(seen) <= 16 and sum(seen) == 37 * (1 + mirror)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)
    alone = np.concatenate([small(face[None]) for face in faces])
    np.testing.assert_allclose(got, alone, atol=1e-5)
    assert small(faces[:0]).shape == (0, small.dim) and small.dim == got.shape[1]
    mirrored = small(faces[:, :, ::-1])
    assert np.allclose(got, mirrored, atol=1e-5) == mirror


def test_network_leaves_the_network_given_as_it_is():
    net = tiny("frozen").train()
    Network(net, Preprocessing(size=(16, 16)), name="tiny", architecture="tiny").to("cpu")
    assert net.training and all(p.requires_grad for p in net.parameters())


def test_digest_is_of_weights_architecture_and_preprocessing():
    def digest(net=None, architecture="tiny", **changes):
        preprocessing = Preprocessing(size=(16, 16), **changes)
        return Network(net or tiny(), preprocessing, name="any", architecture=architecture).digest

    other = tiny()
    with torch.no_grad():
        other.norms[0].bias[0] += 1e-6
    found = [
        digest(),
        digest(other),
        digest(architecture="b"),
        digest(mirror=True),
        digest(mean=1.0),
    ]
    assert len(set(found)) == 5 and digest() == found[0]


def test_networks_that_cannot_embed_one_face_are_refused():
    small = Preprocessing(size=(16, 16))
    with pytest.raises(ValueError, match=r"transductive.*--norm group or frozen"):
        Network(tiny("batch"), small, name="tiny", architecture="tiny")
    with pytest.raises(ValueError, match="small does not take pictures of .3, 16, 16..*64x64"):
        Network(nets.MobileFaceNet(3, (64, 64)), small, name="small", architecture="m")
    with pytest.raises(ValueError, match=r"features \[n, D\], and gives \[2, 8, 14, 14\]"):
        Network(nn.Conv2d(3, 8, 3), small, name="conv", architecture="conv")


def test_wrong_crops_are_refused_by_name():
    small = Network(tiny(), Preprocessing(size=(16, 16)), name="tiny", architecture="tiny")
    for bad in (crops(1).astype(np.float32), crops(1)[0], crops(1)[:, :, :96], crops(1)[..., :1]):
        with pytest.raises(ValueError, match=r"crops must be uint8 \[n, 112, 112, 3\] RGB, got"):
            small(bad)
    dark = np.concatenate([crops(2), np.zeros((1, 112, 112, 3), np.uint8)])
    pixels = Network(nets.Pixels(), Preprocessing(), name="pixels", architecture="pixels")
    with pytest.raises(ValueError, match="crop 2 an embedding of length 0.0.*no direction"):
        pixels(dark)


# -- known answer ------------------------------------------------------------------------------


def test_the_published_weights_give_the_known_answer(casia_folder):
    embedder = load(CASIA, casia_folder)
    assert check_known_answer(embedder) > 0.99999
    assert embedder.name == CASIA and embedder.dim == 128


def test_the_known_answer_survives_another_processors_rounding(casia_folder, monkeypatch):
    face, random = known_face().astype(int), np.random.default_rng(0)
    flips = random.choice([-1, 0, 1], face.shape, p=[0.005, 0.99, 0.005])  # ten times what is seen
    changed = np.clip(face + flips, 0, 255).astype(np.uint8)
    monkeypatch.setattr("metaface.recognition.embedders.known.known_face", lambda: changed)
    assert check_known_answer(load(CASIA, casia_folder)) > 0.9999


@pytest.mark.parametrize(
    "wrong",
    [
        {"columns": (0, 96)},
        {"columns": (9, 105)},
        {"columns": (0, 112), "size": (112, 96)},
        {"channels": "BGR"},
        {"mirror": False},
        {"std": 1.0},
    ],
)
def test_wrong_preprocessing_fails_the_known_answer(casia, wrong):
    preprocessing = replace(models.MODELS[CASIA].preprocessing, **wrong)
    embedder = Network(
        nets.pretrained(casia), preprocessing, name=CASIA, architecture="mobilefacenet"
    )
    with pytest.raises(KnownAnswerError, match="the weights or the preprocessing are not what was"):
        check_known_answer(embedder)


def test_other_weights_fail_the_known_answer():
    embedder = Network(
        lively(nets.MobileFaceNet(3, (112, 96))),
        models.MODELS[CASIA].preprocessing,
        name=CASIA,
        architecture="mobilefacenet",
    )
    with pytest.raises(KnownAnswerError, match="below 0.9999"):
        check_known_answer(embedder)
    embedder.name = "own"
    assert check_known_answer(embedder) is None


# -- import ------------------------------------------------------------------------------------


def test_imported_weights_give_the_raw_checkpoints_embeddings(casia, tmp_path, nobodys_models):
    renamed = tmp_path / "068.ckpt"
    renamed.write_bytes(casia.read_bytes())
    path = import_weights(renamed)
    assert path == nobodys_models / f"{CASIA}.safetensors"
    assert [p.name for p in nobodys_models.iterdir()] == [path.name]
    raw, imported = load(casia), load(CASIA)
    assert raw.digest == imported.digest == load(path).digest and raw.name == imported.name == CASIA
    faces = crops(5)
    np.testing.assert_array_equal(raw(faces), imported(faces))
    again = import_weights(path, tmp_path / "again")  # from safetensors to safetensors
    assert again.read_bytes() == path.read_bytes()
    with safetensors.safe_open(path, "pt") as file:
        about = Description.from_json(file.metadata()[KEY])
    entry = models.MODELS[CASIA]
    assert about == Description("mobilefacenet", entry.preprocessing, entry.sha256, entry.licence)
    assert {r.name: r.state for r in models.list_models()}[CASIA] == "imported"


def test_a_registered_import_is_checked_by_its_tensors(casia, nobodys_models):
    path = import_weights(casia)
    state, notes = read_weights(path)
    state["linear1.bn.bias"][0] += 1e-3
    safetensors.torch.save_file(state, path, notes)
    with pytest.raises(ModelDamaged, match=r"has tensors of digest [0-9a-f]{64}, not da34959a"):
        load(CASIA)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ModelDamaged, match="truncated or not a safetensors file"):
        models.find(CASIA)


def test_an_import_that_fails_the_known_answer_leaves_nothing(casia, nobodys_models):
    wrong = replace(models.MODELS[CASIA].preprocessing, columns=(0, 96))
    with pytest.raises(KnownAnswerError):
        import_weights(casia, preprocessing=wrong)
    assert not nobodys_models.exists()


@pytest.fixture
def own(tmp_path):
    """The raw checkpoint of a MobileFaceNet that nobody published."""
    net = lively(nets.MobileFaceNet(1, (64, 48), features=32))
    torch.save({"epoch": 3, "net_state_dict": net.state_dict()}, tmp_path / "own.pt")
    return tmp_path / "own.pt"


def test_other_weights_are_imported_by_their_own_name(own, nobodys_models):
    path = import_weights(own)
    assert path == nobodys_models / "own.safetensors"
    embedder = load("own")
    assert (embedder.name, embedder.dim, embedder.digest) == ("own", 32, load(own).digest)
    assert embedder.preprocessing == Preprocessing(size=(64, 48), channels="grey", mirror=True)
    np.testing.assert_array_equal(embedder(crops(2)), load(own)(crops(2)))
    images = torch.rand(2, 1, 64, 48)
    assert torch.equal(nets.pretrained(path)(images), nets.pretrained(own)(images))


def test_other_weights_under_a_registered_name_are_refused(own, tmp_path):
    fake = own.rename(tmp_path / f"{CASIA}.ckpt")
    with pytest.raises(ModelDamaged, match=f"{CASIA}.ckpt has [0-9]+ bytes, not 4130855"):
        import_weights(fake)


class Trap:
    def __reduce__(self):
        return print, ("code was run",)


def test_pickles_with_code_are_refused_by_name_and_reason(tmp_path, capsys):
    with open(tmp_path / "plain.ckpt", "wb") as file:
        pickle.dump({"net_state_dict": Trap()}, file, protocol=2)
    torch.save({"net_state_dict": Trap()}, tmp_path / "zip.ckpt")
    torch.save(tiny(), tmp_path / "module.pt")
    for name in ("plain.ckpt", "zip.ckpt", "module.pt"):
        for read in (import_weights, load, nets.pretrained):
            with pytest.raises(
                ValueError, match=f"{name} is a pickle that needs more .*state_dict"
            ):
                read(tmp_path / name)
    with open(tmp_path / "new.ckpt", "wb") as file:  # of a kind that torch does not read at all
        pickle.dump({"net_state_dict": Trap()}, file)
    with pytest.raises(ValueError, match="new.ckpt is truncated or not a file of weights"):
        load(tmp_path / "new.ckpt")
    assert "code was run" not in capsys.readouterr().out


def test_files_that_are_no_weights_are_refused_by_name(tmp_path, own):
    whole = own.read_bytes()
    path = import_weights(own, tmp_path)
    tensors = path.read_bytes()
    bad = {
        "empty.ckpt": b"",
        "text.ckpt": b"hello",
        "half.ckpt": whole[: len(whole) // 2],
        "empty.safetensors": b"",
        "text.safetensors": b"hello, this is no such file at all",
        "half.safetensors": tensors[: len(tensors) // 2],
        "head.safetensors": tensors[:100],
        "long.safetensors": (1 << 60).to_bytes(8, "little") + tensors[8:],
        "renamed.ckpt": tensors[: len(tensors) // 2],
        "renamed.safetensors": whole,
    }
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
        for read in (import_weights, load, nets.pretrained):
            with pytest.raises(ValueError, match=f"{name} is truncated or not a"):
                read(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(ValueError, match=r"list\.ckpt holds no state dict"):
        load(tmp_path / "list.ckpt")
    with pytest.raises(FileNotFoundError, match=r"no weights at .*gone\.ckpt"):
        import_weights(tmp_path / "gone.ckpt")


def test_safetensors_are_checked_tensor_by_tensor(tmp_path, own):
    state, notes = read_weights(import_weights(own, tmp_path))

    def refused(message, tensors=state, notes=notes):
        safetensors.torch.save_file(tensors, tmp_path / "bad.safetensors", notes)
        with pytest.raises(ValueError, match=message) as error:
            load(tmp_path / "bad.safetensors")
        assert "bad.safetensors" in str(error.value)

    about = json.loads(notes[KEY])

    def noted(**changes):
        return {KEY: json.dumps({**about, **changes})}

    without = {n: t for n, t in state.items() if n != "conv2.bn.bias"}
    refused("missing: conv2.bn.bias", without)
    refused("no tensor 'linear7.conv.weight'", {"fc.weight": torch.zeros(2, 2)})
    refused("unknown: extra", state | {"extra": torch.zeros(1)})
    refused(r"conv2.bn.bias is \[7\] and not \[512\]", state | {"conv2.bn.bias": torch.zeros(7)})
    refused("bias holds infinite", state | {"conv2.bn.bias": torch.full((512,), torch.nan)})
    refused("does not say what its weights are.*metaface models import", notes=None)
    refused("architecture 'resnet100'; this MetaFace knows", notes=noted(architecture="resnet100"))
    refused("columns=\\(8, 200\\)", notes=noted(preprocessing={"columns": [8, 200]}))
    refused("no architecture and preprocessing", notes={KEY: "[]"})
    refused("is no JSON", notes={KEY: "{"})
    refused("something else than text", notes=noted(licence=3))


# -- load: everything else ---------------------------------------------------------------------


def test_load_names_what_there_is(tmp_path):
    with pytest.raises(ModelMissing, match=f"no embedder nobody: .*{CASIA}, torchvision:<model>"):
        load("nobody", tmp_path)
    with pytest.raises(ValueError, match="yunet_dynamic is a detector: choose an embedder"):
        load("yunet_dynamic", tmp_path)
    with pytest.raises(ModelMissing, match="torchvision:resnet18 needs the path of its weights"):
        load("torchvision:resnet18")
    with pytest.raises(ValueError, match="weights='x' is for torchvision:<model>"):
        load(CASIA, weights="x")


def test_a_trained_checkpoint_embeds_resized_crops(tmp_path):
    for norm, channels in (("group", 1), ("frozen", 3)):
        spec = ModelSpec("prototypical", embedding="conv4-32", norm=norm, channels=channels)
        learner = spec.build(3)
        lively(learner)
        save_model(tmp_path / "trained.pt", learner, spec)
        embedder = load(tmp_path / "trained.pt")
        faces = crops(3)
        x = torch.from_numpy(faces).permute(0, 3, 1, 2).float()
        if channels == 1:
            x = 0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]
        x = F.interpolate(x, (28, 28), mode="bilinear", antialias=True) / 255
        with torch.no_grad():
            want = F.normalize(learner.embedding(x))
        np.testing.assert_allclose(embedder(faces), want, atol=1e-5)
        assert embedder.name == "trained" and "conv4" not in embedder.digest
    batch = ModelSpec("prototypical", norm="batch")
    save_model(tmp_path / "batch.pt", batch.build(), batch)
    with pytest.raises(ValueError, match="transductive"):
        load(tmp_path / "batch.pt")


def test_a_torchvision_backbone_with_weights_of_its_own(tmp_path):
    import torchvision

    torch.manual_seed(0)
    theirs = lively(torchvision.models.mobilenet_v3_small(num_classes=7))  # eps 0.001
    torch.save(theirs.state_dict(), tmp_path / "own.pth")
    net = nets.Backbone("mobilenet_v3_small", weights=tmp_path / "own.pth").eval()
    theirs.classifier[3] = nn.Identity()
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        want = theirs((x - net.mean) / net.std)
        torch.testing.assert_close(net(x), want, rtol=1e-4, atol=1e-5)
    embedder = load("torchvision:mobilenet_v3_small", weights=tmp_path / "own.pth")
    assert embedder(crops(2)).shape == (2, 1024) and embedder.preprocessing.size == (224, 224)
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth does not fit MobileNetV3 \(missing: "):
        nets.Backbone("mobilenet_v3_small", weights=tmp_path / "other.pth")
    with pytest.raises(ValueError, match="'gone.pth': no such file, and torchvision has DEFAULT"):
        nets.Backbone("mobilenet_v3_small", weights="gone.pth")


@needs_timm
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050", "vit_tiny_patch16_224"])
def test_a_timm_backbone_is_timms_network_without_its_classifier(name, tmp_path):
    import timm

    torch.manual_seed(0)
    theirs = lively(timm.create_model(name, num_classes=1000))
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "own.safetensors")
    net = nets.Backbone(f"timm:{name}", weights=tmp_path / "own.safetensors").eval()
    theirs.reset_classifier(0)
    x = torch.rand(2, 3, *net.image_size)
    with torch.no_grad():
        want = theirs((x - net.mean) / net.std)
        torch.testing.assert_close(net(x), want, rtol=1e-3, atol=1e-4 * float(want.abs().max()))
    assert not any(isinstance(m, nn.Dropout | nn.BatchNorm2d) for m in net.modules())


@needs_timm
def test_timm_norms_of_every_mode_and_its_errors(tmp_path):
    for norm in nets.MODES:
        net = nets.build("timm:resnet18", norm=norm)
        assert nets.norm_mode(net) == norm and net(torch.rand(2, 1, 32, 32)).shape == (2, 512)
    with pytest.raises(ValueError, match="timm has no network 'resnet19'"):
        nets.build("timm:resnet19")
    with pytest.raises(ValueError, match="weights='gone': no such file"):
        nets.Backbone("timm:resnet18", weights="gone")
    torch.save(nets.Backbone("timm:resnet18").net.state_dict(), tmp_path / "w.pth")
    first, second = (load("timm:resnet18", weights=tmp_path / "w.pth") for _ in range(2))
    assert first.digest == second.digest and first.preprocessing.size == (224, 224)


@pytest.mark.parametrize(
    ("module", "extra", "call"),
    [
        ("timm", "timm", lambda path: nets.Backbone("timm:resnet18")),
        ("onnxruntime", "onnx", lambda path: load(path / "any.onnx")),
    ],
)
def test_a_missing_extra_is_named(module, extra, call, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "any.onnx").write_bytes(b"x")
    with pytest.raises(ImportError, match=rf"pip install 'metaface\[{extra}\]'"):
        call(tmp_path)


# -- ONNX --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A MobileFaceNet; its ONNX files take (x - 127.5) / 128, with n free, 1 and 3."""
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason=f"no {module}: pip install 'metaface[dev]'")

    class Unscaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = fold_norms(net, torch.zeros(1, 3, 112, 112))
            self.net.to(memory_format=torch.contiguous_format)

        def forward(self, x):
            n = self.net
            x = n.conv2(n.blocks(n.dw_conv1(n.conv1(x))))
            return n.linear1(n.linear7(x)).flatten(1)

    net = lively(nets.MobileFaceNet(3, (112, 112)))
    nets.refresh_statistics(net, [Preprocessing()(crops(32))])  # or all faces look alike to it
    folder = tmp_path_factory.mktemp("onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        torch.onnx.export(
            Unscaled().eval(),
            (torch.rand(2, 3, 112, 112),),
            folder / "free.onnx",
            dynamo=True,
            verbose=False,
            external_data=False,
            input_names=["data"],
            dynamic_shapes=({0: torch.export.Dim("n")},),
        )
    import onnx

    model = onnx.load(folder / "free.onnx")
    del model.graph.value_info[:]
    for name, count in (("one", 1), ("three", 3)):
        for end in (model.graph.input[0], model.graph.output[0]):
            end.type.tensor_type.shape.dim[0].dim_value = count
        onnx.save(model, folder / f"{name}.onnx")
    return net, folder


@pytest.fixture
def onnx_file(exported, tmp_path):
    path = tmp_path / "copy.onnx"
    path.write_bytes((exported[1] / "one.onnx").read_bytes())
    return path


@needs_onnx
@pytest.mark.parametrize("name", ["free", "one", "three"])
def test_onnx_is_the_torch_embedder(exported, name):
    net, folder = exported
    faces = crops(17)
    want = Network(net, Preprocessing(), name="torch", architecture="m")(faces)
    embedder = Onnx(folder / f"{name}.onnx", Preprocessing(mean=127.5, std=128.0))
    got = embedder(faces)
    assert got.dtype == np.float32 and got.shape == (17, 128) and embedder.dim == 128
    assert (got * want).sum(1).min() >= 0.9999
    spread = want @ want.T
    assert spread[~np.eye(17, dtype=bool)].min() < 0.99  # faces differ, so agreement says something
    assert embedder(faces[:0]).shape == (0, 128) and embedder.name == name


@needs_onnx
def test_published_weights_give_the_known_answer_as_onnx(casia, casia_folder, tmp_path):
    pytest.importorskip("onnxscript", reason="no onnxscript: pip install 'metaface[dev]'")
    net = nets.pretrained(casia)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            fold_norms(net, torch.zeros(1, 3, 112, 96)).to(memory_format=torch.contiguous_format),
            (torch.rand(1, 3, 112, 96),),
            tmp_path / "casia.onnx",
            dynamo=True,
            verbose=False,
            external_data=False,
        )
    embedder = Onnx(tmp_path / "casia.onnx", models.MODELS[CASIA].preprocessing, CASIA)
    assert check_known_answer(embedder) > 0.9999
    assert embedder.digest != load(CASIA, casia_folder).digest


@needs_onnx
def test_onnx_is_imported_with_its_preprocessing(onnx_file, nobodys_models, tmp_path):
    plain = load(onnx_file)
    assert plain.preprocessing == Preprocessing(mean=127.5, std=127.5)  # InsightFace's
    mirrored = replace(plain.preprocessing, mirror=True)
    path = import_weights(onnx_file, preprocessing=mirrored)
    assert path == nobodys_models / "copy.onnx" and path.read_bytes() == onnx_file.read_bytes()
    embedder = load("copy")
    assert embedder.preprocessing == mirrored and embedder.digest != plain.digest
    assert load(import_weights(onnx_file)).digest == plain.digest  # imported again, otherwise
    assert load(import_weights(path)).digest == plain.digest  # in its place
    assert [r.name for r in models.list_models() if r.state == "imported"] == ["copy"]
    described = path.with_suffix(".json")
    about = json.loads(described.read_text())
    described.write_text(json.dumps({**about, "origin_sha256": "0" * 64}))
    with pytest.raises(ValueError, match=r"copy\.json is of 0{64}: import the ONNX file again"):
        load(path)
    described.write_text("{}")
    with pytest.raises(ValueError, match=r"copy\.json: the description has no architecture"):
        load(path)


@needs_onnx
@pytest.mark.parametrize("files", [0, 1])
def test_an_import_of_onnx_that_is_killed_leaves_no_other_preprocessing(
    files, onnx_file, nobodys_models, monkeypatch
):
    mirrored = replace(load(onnx_file).preprocessing, mirror=True)
    put, done = os.replace, []

    def killed(*names):
        if len(done) == files:
            raise KeyboardInterrupt
        done.append(names)
        put(*names)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "replace", killed)
        import_weights(onnx_file, preprocessing=mirrored)
    assert len(done) == files
    with pytest.raises(ModelMissing):
        load("copy")
    assert load(import_weights(onnx_file, preprocessing=mirrored)).preprocessing == mirrored


@needs_onnx
def test_a_graph_that_scales_by_itself_gets_grey_levels():
    assert insightface(["Sub", "Mul", "Conv"], 112, 112) == Preprocessing(mean=0.0, std=1.0)
    later = [*["Conv"] * 8, "Sub", "Mul"]
    assert insightface(later, 112, 112) == Preprocessing(mean=127.5, std=127.5)
    assert insightface([], 128, 128).size == (128, 128)


@needs_onnx
def test_onnx_with_tensors_in_other_files_is_refused(onnx_file, tmp_path):
    import onnx
    from onnx import TensorProto, helper

    whole = onnx.load(onnx_file)
    inside = _onnx_file.inspect(onnx_file.read_bytes())
    assert not inside.external
    assert inside.operators == [n.op_type for n in whole.graph.node]
    secret = onnx.TensorProto(
        data_type=TensorProto.FLOAT, dims=[3], name="secret", data_location=TensorProto.EXTERNAL
    )
    secret.external_data.add(key="location", value="../../etc/passwd")
    branch = helper.make_graph([helper.make_node("Constant", [], ["c"], value=secret)], "b", [], [])
    sparse = onnx.SparseTensorProto(values=secret)
    ways = {
        "initializer": lambda m: m.graph.initializer.append(secret),
        "constant": lambda m: m.graph.node.append(branch.node[0]),
        "branch": lambda m: m.graph.node.append(
            helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
        ),
        "sparse": lambda m: m.graph.sparse_initializer.append(sparse),
        "function": lambda m: m.functions.append(
            helper.make_function("own", "f", [], ["c"], branch.node, m.opset_import)
        ),
    }
    for name, add in ways.items():
        model = onnx.ModelProto()
        model.CopyFrom(whole)
        add(model)
        (tmp_path / f"{name}.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(ValueError, match=f"{name}.onnx keeps tensors in other files"):
            import_weights(tmp_path / f"{name}.onnx")


def varint(number: int) -> bytes:
    """As a protocol buffer writes a number."""
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


@needs_onnx
@pytest.mark.parametrize("hidden", ["", "external_data", "data_location"])
def test_onnx_with_tensors_in_other_files_hidden_by_its_keys_is_refused(hidden, tmp_path):
    """A key above 32 bits is an unknown field by its number, and not to onnxruntime."""
    from onnx import TensorProto, helper

    def field(number: int, content: bytes, name: str = "") -> bytes:
        key = (number << 3 | 2) + ((name == hidden != "") << 32)
        return varint(key) + varint(len(content)) + content

    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["z"]), helper.make_node("Flatten", ["z"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, [1, 3, 112, 112])],
        [value("y", TensorProto.FLOAT, None)],
    )
    tensor = varint(1 << 3) + varint(1) + varint(2 << 3) + varint(1) + field(8, b"w")  # float [1]
    located = field(1, b"location") + field(2, b"weights.bin")
    outside = (14 << 3) + ((hidden == "data_location") << 32)
    tensor += field(13, located, "external_data") + varint(outside) + varint(1)
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    model.ClearField("graph")
    whole = model.SerializeToString() + field(7, graph.SerializeToString() + field(5, tensor))
    (tmp_path / "weights.bin").write_bytes(np.ones(1, np.float32).tobytes())
    (tmp_path / "m.onnx").write_bytes(whole)
    why = "has more than 32 bits" if hidden else "keeps tensors in other files"
    with pytest.raises(ValueError, match=f"m.onnx .*{why}"):
        Onnx(tmp_path / "m.onnx")


@needs_onnx
def test_the_digest_of_an_onnx_embedder_is_of_what_runs(onnx_file, monkeypatch):
    """Also where the file changes while it is loaded."""
    import onnxruntime

    class Changed(onnxruntime.InferenceSession):
        def __init__(self, *given, **options):
            onnx_file.write_bytes(b"another file")
            super().__init__(*given, **options)

    want = load(onnx_file).digest
    monkeypatch.setattr(onnxruntime, "InferenceSession", Changed)
    assert load(onnx_file).digest == want and onnx_file.read_bytes() == b"another file"


@needs_onnx
def test_files_that_are_no_onnx_embedders_are_refused(onnx_file, tmp_path, nobodys_models):
    from onnx import TensorProto, helper

    def model(op, shape, domain="", kind=TensorProto.FLOAT):
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            [helper.make_node(op, ["x"], ["y"], domain=domain)],
            "g",
            [value("x", kind, shape)],
            [value("y", kind, None)],
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("evil", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()

    whole = onnx_file.read_bytes()
    bad = {
        "empty.onnx": (b"", "truncated or not an ONNX file: the file is empty"),
        "text.onnx": (b"hello there", "truncated or not an ONNX file"),
        "half.onnx": (whole[: len(whole) // 2], "truncated or not an ONNX file: it ends"),
        "custom.onnx": (model("Steal", [1, 3, 112, 112], "evil"), "no model that onnxruntime can"),
        "flat.onnx": (model("Relu", [1, 10]), r"must take one float input \[n, 3, H, W\], and"),
        "double.onnx": (model("Relu", ["n", 3, 112, 112], "", TensorProto.DOUBLE), "one float"),
        "picture.onnx": (model("Relu", ["n", 3, 112, 112]), r"gives \[1, 3, 112, 112\] for one"),
        "five.onnx": (model("Flatten", [1, 1, 112, 112]), r"does not take pictures of \[3, 112"),
    }
    for name, (data, message) in bad.items():
        (tmp_path / name).write_bytes(data)
        for read in (load, import_weights):
            with pytest.raises(ValueError, match=message) as error:
                read(tmp_path / name)
            assert name in str(error.value)
    assert not nobodys_models.exists()


@needs_onnx
def test_every_truncation_of_an_onnx_file_is_refused_without_running_it():
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, [1, 3, 112, 112])],
        [value("y", TensorProto.FLOAT, None)],
    )
    whole = helper.make_model(graph, ir_version=8).SerializeToString()
    for length in range(len(whole)):
        try:
            found = _onnx_file.inspect(whole[:length])
        except ValueError:
            continue
        assert found.operators == ["Flatten"]  # cut between two fields of the file itself
