"""How a photograph was taken: the dials of a domain, and the conditions drawn from them.

Angles are in degrees here; lengths are in half face widths, as in ``_people``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metaface.synthetic._random import Draws, key


@dataclass(frozen=True)
class Dials:
    """The nuisances of a domain. Chances and strengths are in 0..1; 0 switches a nuisance off.

    Example:
        >>> import metaface as mf
        >>> booth = mf.synthetic.Dials(yaw=(0, 5), pitch=3, background=0, grey=0)
        >>> renders = mf.synthetic.render(people=2, photos=3, domains={"booth": booth})
        >>> renders.domains, bool((abs(renders.pose[:, 0]) <= 5).all())
        (('booth',), True)
    """

    yaw: tuple[float, float] = (0.0, 38.0)  #: least and greatest absolute yaw, degrees, 0..85
    pitch: float = 18.0  #: greatest absolute pitch, degrees, 0..40
    roll: float = 12.0  #: greatest absolute roll, degrees, 0..45
    smile: float = 0.6  #: chance of a smile
    mouth_open: float = 0.35  #: chance of an open mouth
    brow_raise: float = 0.7  #: strength of raised and lowered brows
    eye_closure: float = 0.07  #: chance of closed eyes (squinting comes with it)
    gaze: float = 0.7  #: strength of looking aside
    light_angle: float = 65.0  #: greatest angle between light and camera, degrees, 0..90
    hardness: float = 0.6  #: how far direct light outweighs the surroundings' light, at most
    light_color: float = 0.6  #: strength of coloured light and wrong white balance
    exposure: float = 0.5  #: strength of wrong exposure and contrast
    glasses: float = 0.85  #: chance that a wearer of glasses wears them (others: a twentieth)
    mask: float = 0.01  #: chance of a face mask
    cap: float = 0.03  #: chance of a cap
    hand: float = 0.03  #: chance of a hand before the face
    background: float = 0.8  #: clutter behind the head, strength
    styling: float = 0.4  #: strength of day-to-day change of hair and beard
    window: float = 2.85  #: width of the picture in half face widths, 2..6
    scale: float = 0.13  #: greatest relative change of size
    shift: float = 0.06  #: greatest shift, as a part of the image's side
    blur: float = 0.35  #: strength of blur
    noise: float = 0.3  #: strength of sensor noise
    jpeg: float = 0.2  #: chance of visible JPEG compression
    grey: float = 0.2  #: chance of a grey photograph
    sketch: float = 0.0  #: chance of a pencil sketch

    def __post_init__(self) -> None:
        limits = {"pitch": 40.0, "roll": 45.0, "light_angle": 90.0}
        low, high = self.yaw
        if not 0 <= low <= high <= 85:
            raise ValueError(
                f"yaw={self.yaw!r}: give (least, greatest) with 0 <= least <= greatest <= 85"
            )
        if not 2 <= self.window <= 6:
            raise ValueError(f"window={self.window!r}: give a number from 2 to 6")
        for name, value in vars(self).items():
            top = limits.get(name, 1.0)
            if name not in ("yaw", "window") and not 0 <= value <= top:
                raise ValueError(f"{name}={value!r}: give a number from 0 to {top:g}")


DOMAINS: dict[str, Dials] = {
    "default": Dials(),
    "frontal": Dials(
        window=3.6, yaw=(0.0, 6.0), pitch=4.0, roll=3.0, smile=0.2, mouth_open=0.05, brow_raise=0.3,
        eye_closure=0.0, gaze=0.3, light_angle=35.0, hardness=0.35, light_color=0.2, exposure=0.25,
        glasses=0.5, mask=0.0, cap=0.0, hand=0.0, background=0.3, styling=0.2, scale=0.1,
        shift=0.05, blur=0.1, noise=0.15, jpeg=0.0, grey=0.0,
    ),
    "profile": Dials(yaw=(45.0, 80.0), pitch=8.0, roll=6.0),
    "hard-light": Dials(
        yaw=(0.0, 15.0), pitch=8.0, roll=5.0, light_angle=85.0, hardness=1.0, background=0.4,
        grey=0.5,
    ),
    "occluded": Dials(yaw=(0.0, 20.0), glasses=1.0, mask=0.4, cap=0.4, hand=0.4),
    "low-quality": Dials(blur=1.0, noise=1.0, jpeg=1.0, exposure=0.8, shift=0.08),
    "sketch": Dials(
        yaw=(0.0, 10.0), pitch=5.0, roll=4.0, light_angle=45.0, hardness=0.4, mask=0.0, cap=0.0,
        hand=0.0, background=0.0, blur=0.0, noise=0.0, jpeg=0.0, grey=1.0, sketch=1.0, scale=0.05,
        shift=0.02,
    ),
}  # fmt: skip


Conditions = dict[str, np.ndarray]


def draw_conditions(dials: Dials, keys: np.ndarray, wears_glasses: np.ndarray) -> Conditions:
    """How N photographs were taken: each float64 ``[N]``.

    Args:
        keys: uint64 ``[N]``, see :func:`photo_keys`.
        wears_glasses: float64 ``[N]``, 1 for people who do, else 0.
    """
    d = Draws(keys)
    c: Conditions = {}
    _draw_pose(d, dials, c)
    _draw_expression(d, dials, c)
    _draw_light(d, dials, c)
    _draw_worn(d, dials, c, wears_glasses > 0)
    _draw_surroundings(d, dials, c)
    _draw_styling(d, dials, c)
    _draw_camera(d, dials, c)
    return c


def photo_keys(seed: int, domain: str, person: np.ndarray, photo: np.ndarray) -> np.ndarray:
    """uint64 ``[N]``: what the conditions of photos ``[N]`` of persons ``[N]`` are drawn from."""
    return key("photo", seed, domain, person, photo)


def _draw_pose(d: Draws, dials: Dials, c: Conditions) -> None:
    """Pose."""
    n, u = d.normal, d.uniform
    low, high = dials.yaw
    side = np.where(u("side") < 0.5, -1.0, 1.0)
    c["yaw"] = side * (low + (high - low) * u("yaw") ** 1.4)
    c["pitch"] = dials.pitch * n("pitch", 0, 1 / 2.2).clip(-1, 1)
    c["roll"] = dials.roll * n("roll", 0, 1 / 2.2).clip(-1, 1)


def _draw_expression(d: Draws, dials: Dials, c: Conditions) -> None:
    """Mouth, brows, lids and gaze."""
    n, u = d.normal, d.uniform
    smile = d.chance("smile", dials.smile) * u("smile size", 0.25, 1.0)
    c["smile"] = np.where(smile > 0, smile, -0.25 * dials.smile * u("sulk"))
    speech = d.chance("open", dials.mouth_open) * u("open size") ** 1.5
    c["mouth_open"] = speech * 0.8 + 0.2 * d.chance("grin", 0.6) * smile
    c["brow_raise"] = dials.brow_raise * n("brow", 0, 0.5)
    c["frown"] = dials.brow_raise * n("frown", 0, 0.4).clip(0, 1)
    closed = d.chance("closed", dials.eye_closure)
    squint = dials.gaze * 0.4 * u("squint") ** 2 + 0.3 * smile * u("smile squint")
    c["eye_closure"] = np.where(closed > 0, u("closure", 0.75, 1.0), squint.clip(0, 0.6))
    to_camera = np.sin(np.radians(c["yaw"])) * 0.5 * d.chance("to camera", 0.5)
    c["gaze_x"] = dials.gaze * n("gaze x", 0, 0.5) - to_camera
    c["gaze_y"] = dials.gaze * n("gaze y", 0, 0.3)


def _draw_light(d: Draws, dials: Dials, c: Conditions) -> None:
    """Light, its colour, exposure."""
    n, u = d.normal, d.uniform
    around = u("light around", 0, 2 * np.pi)
    away = np.radians(dials.light_angle) * u("light away") ** 0.7
    # Light from below is rare, and most light comes from somewhat above.
    rise = np.sin(around) * np.where(np.sin(around) > 0, 0.35, 1.0)
    light = np.stack([np.sin(away) * np.cos(around), np.sin(away) * rise - 0.12, np.cos(away)])
    c["light_x"], c["light_y"], c["light_z"] = light / np.linalg.norm(light, axis=0)
    c["hardness"] = dials.hardness * (0.25 + 0.75 * u("hardness"))
    c["fill_x"] = n("fill x", 0, 0.5) - 0.5 * c["light_x"]
    warm, green = dials.light_color * n("warm", 0, 0.13), dials.light_color * n("green", 0, 0.05)
    key_warm = dials.light_color * n("key warm", 0, 0.13)
    for name, w, g in (("r", 1, 0), ("g", 0, 1), ("b", -1, 0)):
        c[f"tint_{name}"] = (1 + w * warm + g * green).clip(0.4, 1.8)
        c[f"key_{name}"] = (1 + w * key_warm).clip(0.4, 1.8)
    c["exposure"] = 2.0 ** (dials.exposure * n("exposure", -0.1, 0.6))
    c["contrast"] = 1 + dials.exposure * n("contrast", 0.1, 0.35)
    c["black"] = dials.exposure * n("black", 0.0, 0.08)
    c["saturation"] = 1 + dials.light_color * n("saturation", -0.25, 0.4)


def _draw_worn(d: Draws, dials: Dials, c: Conditions, wears: np.ndarray) -> None:
    """Glasses, masks, caps, hands before the face."""
    u = d.uniform
    c["glasses"] = d.chance("glasses", np.where(wears, dials.glasses, dials.glasses**3 / 20))
    c["sunglasses"] = c["glasses"] * d.chance("sunglasses", np.where(wears, 0.03, 0.5))
    c["glare"] = d.chance("glare", 0.4) * u("glare size", 0.1, 0.7)
    c["mask"] = d.chance("mask", dials.mask)
    c["cap"] = d.chance("cap", dials.cap)
    c["hand"] = d.chance("hand", dials.hand)
    for i in range(4):
        c[f"hand{i}"] = u(f"hand {i}")


def _draw_surroundings(d: Draws, dials: Dials, c: Conditions) -> None:
    """Colours of clothes and background, and what stands there."""
    n, u = d.normal, d.uniform
    vivid = {"cap": 0.5, "mask": 0.25, "cloth": 0.45, "back": 0.2, "back2": 0.25}
    for thing, share in vivid.items():
        bright = u(f"{thing} bright") ** 1.3
        for name in "rgb":
            level = (1 - share) * bright + share * u(f"{thing} {name}")
            c[f"{thing}_{name}"] = level**2 * 0.9 + 0.004
    c["collar"] = n("collar", 2.3, 0.12)
    c["clutter"] = dials.background * u("clutter")
    c["back_scale"] = u("back scale", 0.12, 0.6)
    for name in ("back_x", "back_y", "noise_at", "strand_x", "strand_y"):
        c[name] = u(name, -1, 1)
    c["back_light"] = n("back light", 0, 0.35)


def _draw_styling(d: Draws, dials: Dials, c: Conditions) -> None:
    """Hair, beard and weight of the day."""
    n, u = d.normal, d.uniform
    c["hair_shift"] = dials.styling * n("hair shift", 0, 0.07)
    c["hair_volume"] = 1 + dials.styling * n("hair volume", 0, 0.35)
    c["hair_sweep_change"] = dials.styling * n("sweep change", 0, 0.12)
    c["stubble_change"] = dials.styling * u("stubble change", -0.15, 0.35)
    c["weight_change"] = dials.styling * n("weight change", 0, 0.25)


def _draw_camera(d: Draws, dials: Dials, c: Conditions) -> None:
    """Framing, blur, noise, compression, kind of picture."""
    n, u = d.normal, d.uniform
    c["window"] = np.full(len(d.keys), dials.window)
    c["zoom"] = 1 + dials.scale * n("zoom", 0, 0.5)
    c["shift_x"] = dials.shift * n("shift x", 0, 0.6)
    c["shift_y"] = dials.shift * n("shift y", 0, 0.6)
    c["stretch"] = 1 + 0.5 * dials.scale * n("stretch", 0, 0.4)
    c["blur"] = dials.blur * u("blur") ** 1.5
    c["noise"] = dials.noise * u("noise") ** 2 * 0.07
    c["jpeg"] = d.chance("jpeg", dials.jpeg) * np.floor(u("jpeg quality", 12, 60))
    c["grey"] = d.chance("grey", dials.grey)
    c["sketch"] = d.chance("sketch", dials.sketch)
    c["stroke"] = u("stroke", 0.6, 1.4)
