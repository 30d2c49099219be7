"""Every comparison purifier follows its authors' public code on given weights and noise."""

from pathlib import Path

import pytest
import torch
from rp_models.diffusion.discrete import DiscreteVPPrecond
from rp_purify.adam import adam
from rp_purify.adp import ADP
from rp_purify.coup import COUP
from rp_purify.ddim_purify import DDIMPurify
from rp_purify.diffpure import DiffPure
from rp_purify.gdmp import GDMP
from rp_purify.gradual import GradualPurify
from rp_purify.purifier import frozen
from rp_purify.reverse import Draw
from rp_purify.scoreopt import LikelihoodMaximisation, ScoreOptN
from rp_purify.soap import SOAP, LabelConsistency, Reconstruction, Rotation, RotationHead
from rp_purify.vp_steps import EulerMaruyama, sde_steps, vp_label
from rp_testing import Golden, fill_value
from torch import Tensor, nn

from .rivals import edm_network, guided_network, score_network, small_classifier


def given(*rounds: tuple[Tensor | None, Tensor], references: Tensor | None = None) -> Draw:
    """Noise by purpose, from the start's and the steps' unit normals of each round."""

    def draw(purpose: str) -> Tensor:
        *_, number = purpose.split()
        start, units = rounds[int(number)]
        if purpose.startswith("noise"):
            assert start is not None
            return start
        step = int(purpose.split()[1])
        if purpose.startswith("reference"):
            assert references is not None
            return references[int(number), step]
        return units[step]

    return draw


@pytest.mark.parametrize("kind", ["score", "guided"])
def test_diffpure_as_published(kind: str, tmp_path: Path) -> None:
    golden = Golden(f"diffpure_vpsde_{kind}_tiny")
    network = (score_network if kind == "score" else guided_network)(golden, tmp_path)
    purifier = DiffPure(network, times=golden.config["t"], solver="euler-maruyama")
    with torch.no_grad():
        states = list(purifier.trajectory(golden["in_x"], given((golden["in_noise"], golden["in_units"]))))
        drift = EulerMaruyama(0.0437, 1e-3).drift(network, golden["out_noised"], lambda seen: 0.0)
    # the solver asks for the drift once before it starts
    golden.check(out_noised=states[0], out_states=torch.stack(states[:1] + states[:-1]), out_final=states[-1])
    golden.check(out_image=(states[-1] + 1) / 2, out_drift_at_0_0437=-drift)
    times = [(1 - step.t, 1 - step.t + step.dt) for step in purifier.rounds[0].steps]
    torch.testing.assert_close(torch.tensor(times, dtype=torch.float64), golden["out_solver_times"], atol=1e-9, rtol=0)


def test_the_labels_of_a_discrete_network_are_floored_in_float32_as_published() -> None:
    with torch.device("meta"):
        network = DiscreteVPPrecond(8, 3, model_channels=128, channel_mult=[1], num_blocks=1)
    labels = {times: [vp_label(network, step.t) for step in sde_steps(times)] for times in (75, 100, 125, 150)}
    assert labels[75][:3] == [74, 74, 73]
    assert labels[150][:3] == [149, 148, 148]
    for times in (100, 125):
        assert labels[times] == list(range(times, 0, -1))
    assert [vp_label(torch.nn.Identity(), step.t) for step in sde_steps(1)] == [pytest.approx(0.999, abs=1e-4)]


@pytest.mark.parametrize("name", ["coup_sde_tiny", "coup_noised_tiny"])
def test_coup(name: str, tmp_path: Path) -> None:
    golden = Golden(name)
    network, classifier = score_network(golden, tmp_path), small_classifier(golden)
    noised = golden.config["mode"] == "diffPure"
    purifier = COUP(network, classifier, times=golden.config["t"], weight=golden.config["weight"], noised=noised)
    with torch.no_grad():
        states = list(purifier.trajectory(golden["in_x"], given((golden["in_noise"], golden["in_units"]))))
    golden.check(out_start=states[0], out_guidance=purifier.guidance(golden["out_start"]), out_final=states[-1])
    golden.check(out_states=torch.stack(states[:1] + states[:-1]), out_image=((states[-1] + 1) / 2).clamp(0, 1))
    golden.check(out_logits=classifier(golden["out_image"]))


def test_adbms_purification(tmp_path: Path) -> None:
    golden = Golden("adbm_purify_tiny")
    level, steps = golden.config["noise_level"], golden.config["steps"]
    purifier = DDIMPurify(score_network(golden, tmp_path), times=level, steps=steps)
    with torch.no_grad():
        states = list(purifier.trajectory(golden["in_x"], given((golden["in_noise"], golden["in_noise"][:0]))))
    golden.check(out_states=torch.stack(states[:-1]), out_image=((states[-1] + 1) / 2).clamp(0, 1))
    (start,) = purifier.rounds
    assert [step.label for step in start.steps] == golden["out_labels"].tolist()
    used = torch.tensor([step.abar for step in start.steps])
    golden.check(out_used_alphas=used, out_alpha_noise=torch.tensor(start.signal**2))


def test_gradual_purification(tmp_path: Path) -> None:
    golden = Golden("gradual_ddpm_tiny")
    times, steps = golden.config["max_timesteps"], golden.config["denoising_steps"]
    eta = {"ddpm": 1.0, "ddim": 0.0}[golden.config["method"]]
    purifier = GradualPurify(score_network(golden, tmp_path), times=times, steps=steps, eta=eta)
    units = golden["in_units"].split(steps)
    with torch.no_grad():
        states = list(purifier.trajectory(golden["in_x"], given(*zip(golden["in_noise"], units, strict=True))))
    ends = [sum(count + 1 for count in steps[: number + 1]) - 1 for number in range(len(steps))]
    before = [state for number, state in enumerate(states) if number not in ends]
    golden.check(out_states=torch.stack(before), out_image=(states[-1] + 1) / 2)
    labels = [step.label for start in purifier.rounds for step in start.steps]
    assert labels == golden["out_sequence"].tolist()


def test_gdmp_with_the_published_mean_over_the_batch(tmp_path: Path) -> None:
    golden = Golden("gdmp_tiny")
    config = golden.config
    purifier = GDMP(
        score_network(golden, tmp_path),
        times=config["K"],
        rounds=config["rounds"],
        weight=config["guide_scale"],
        ptb=config["ptb"] / 255,
        per="batch",
    )
    draw = given(*zip(golden["in_noise"], golden["in_units"], strict=True), references=golden["in_reference_noise"])
    with torch.no_grad():
        states = list(purifier.trajectory(golden["in_x"], draw))
    k = config["K"]
    before = [state for number, state in enumerate(states) if number % (k + 1) != k]
    images = [((states[(k + 1) * number + k] + 1) / 2).clamp(0, 1) for number in range(config["rounds"])]
    golden.check(out_states=torch.stack(before), out_images=torch.stack(images))
    steps = purifier.rounds[0].steps[::-1]
    scales = torch.tensor([purifier.scale(float(purifier.schedule.sigma[step.index])) for step in steps])
    golden.check(out_scale=scales, out_logvar=torch.tensor([step.log_variance for step in steps]))


def test_scoreopt_over_the_image() -> None:
    golden = Golden("scoreopt_x0_tiny")
    sigma, network = golden.config["sigma"], edm_network(golden)
    purifier = LikelihoodMaximisation(network, sigma=(sigma - 0.1, sigma + 0.1), per="batch")
    start, inputs = 2 * golden["in_x"] - 1, []
    levels = purifier.sigma[0] + (purifier.sigma[1] - purifier.sigma[0]) * golden["in_uniform"]

    def objective(image: Tensor, step: int) -> Tensor:
        level, unit = levels[step].expand(len(image)), golden["in_noise"][step]
        inputs.append((image + levels[step] * unit).detach())
        return purifier.loss(image, start, level, unit)

    with frozen(network):
        image = adam(network, start, objective, steps=golden.config["iters"], lr=golden.config["lr"], exact=False)
    golden.check(out_net_inputs=torch.stack(inputs), out_sigmas=levels, out_image=((image + 1) / 2).clamp(0, 1))


def test_scoreopt_over_the_noisy_image() -> None:
    golden = Golden("scoreopt_xt_tiny")
    options = {"sigma": golden.config["sigma"], "steps": golden.config["iters"], "lr": golden.config["lr"]}
    purifier = ScoreOptN(edm_network(golden), **options, per="batch")
    golden.check(out_image=purifier.from_noise(golden["in_x"], golden["in_noise"][0]))


class SmallAuxiliary(nn.Module):
    """The network of the golden files of SOAP."""

    def __init__(self, golden: Golden) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.cls, self.deg = nn.Linear(1536, 10), nn.Linear(1536, 4)
        self.up = nn.ConvTranspose2d(6, 3, 4, stride=2, padding=1)
        values = {
            key: torch.from_numpy(fill_value(f"{golden.name}/{key}", shape, 1.4))
            for key, shape in golden.shapes.items()
        }
        self.load_state_dict(values)

    def features(self, x: Tensor) -> Tensor:
        return self.conv(x).tanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.cls(self.features(x).flatten(1))

    def forward_features(self, x: Tensor) -> Tensor:
        return self.features(x).flatten(1)

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.up(self.features(x)).sigmoid()


@pytest.mark.parametrize("kind", ["rec", "rot", "pi"])
def test_soap(kind: str) -> None:
    golden = Golden(f"soap_{kind}_tiny")
    network = SmallAuxiliary(golden)
    turns = RotationHead(network, 1536)
    turns.head = network.deg
    auxiliary = {"rec": Reconstruction(network.reconstruct), "rot": Rotation(turns), "pi": LabelConsistency(network)}
    config = golden.config
    options = {"delta": config["delta"], "step": config["step"], "steps": config["iters"]}
    x = golden["in_x"].float()
    alone, together = (SOAP(network, auxiliary[kind], **options, per=per) for per in ("image", "batch"))
    tried = list(alone.candidates(x))
    losses = torch.stack([loss.detach() for _, loss in tried])
    golden.check(out_losses_each=losses, out_losses=losses.mean(dim=1))
    golden.check(out_first_pixels=torch.stack([image[:, :, :4, :4] for image, _ in tried]))
    # the file is rounded to half precision, whose steps below 1 are 2^-11
    golden.check(tolerance=3e-4, out_image_alone=alone(x), out_image=together(x))


def test_adp(tmp_path: Path) -> None:
    golden = Golden("adp_tiny")
    config, network = golden.config, score_network(golden, tmp_path)
    purifier = ADP(
        network,
        sigma=config["sigma"],
        steps=config["max_iter"],
        lam=config["purification_lambda"],
        stop=config["stopping_alpha"],
        per="batch",
    )
    purifier.direction = lambda x: -network.model(2 * x - 1, torch.full((len(x),), 99.0))  # type: ignore[method-assign]
    with torch.no_grad():
        images, sizes = zip(*purifier.trajectory(golden["in_x"], golden["in_noise"]), strict=True)
    golden.check(out_images=torch.stack(images), out_step_sizes=torch.stack(sizes[1:]))
