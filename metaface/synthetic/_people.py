"""Who somebody is: the traits of a procedural person.

Lengths are in half face widths (about 7 cm); x to the image's right, y down from the eye line, z
towards the camera. Colours are linear reflectances in 0..1.
"""

from __future__ import annotations

import numpy as np

from metaface.synthetic._random import Draws, key

_SKIN = np.array([[243, 205, 186], [226, 178, 148], [197, 144, 110], [148, 98, 70], [84, 57, 45]])
_SKIN = _SKIN / 255.0
_HAIR = {
    "black": [28, 24, 22],
    "dark brown": [58, 42, 32],
    "brown": [98, 70, 48],
    "blond": [178, 140, 96],
    "red": [132, 72, 42],
    "grey": [150, 147, 143],
    "white": [216, 213, 208],
}
_IRIS = np.array([[52, 34, 24], [88, 62, 38], [92, 100, 70], [92, 122, 148]]) / 255.0


Traits = dict[str, np.ndarray]


def draw_traits(seed: int, person: np.ndarray) -> Traits:
    """The traits of persons ``[N]`` (int64), each float64 ``[N]``."""
    d = Draws(key("person", seed, person))
    tone = np.clip(d.uniform("tone") ** 1.7 + d.normal("tone jitter", 0, 0.05), 0, 1)
    t = {
        "female": d.chance("female", 0.45),
        "age": d.uniform("age") ** 1.2,  # 0: twenty, 1: seventy-five
        "skin_tone": tone,  # 0: light, 1: dark
    }
    for draw in (_draw_head, _draw_eyes, _draw_nose, _draw_mouth, _draw_lines, _draw_marks):
        draw(d, t)
    for draw in (_draw_hair, _draw_beard, _draw_glasses):
        draw(d, t)
    colors = {"skin": _skin_color(d, tone), "hair": _hair_color(d, t), "iris": _iris_color(d, tone)}
    for name, color in colors.items():
        t |= {f"{name}_{c}": color[:, i] for i, c in enumerate("rgb")}
    return t


def _is_dark(tone: np.ndarray) -> np.ndarray:
    """1.0 for those who mostly have dark hair and eyes, else 0.0."""
    return (tone > 0.45).astype(float)


def _draw_head(d: Draws, t: Traits) -> None:
    """Skull, jaw, cheeks, neck and ears."""
    n, female = d.normal, t["female"]
    t["skull_width"] = n("skull width", 0.915, 0.055)
    t["skull_height"] = n("skull height", 1.24, 0.08)
    t["forehead"] = n("forehead", 0.0, 0.06)
    t["face_width"] = n("face width", 0.83, 0.065) - 0.02 * female
    t["face_length"] = n("face length", 1.0, 0.065) - 0.02 * female
    t["jaw_width"] = n("jaw width", 0.55, 0.11) - 0.05 * female
    t["jaw_drop"] = n("jaw drop", 0.95, 0.09)
    t["chin_width"] = n("chin width", 0.3, 0.07) - 0.03 * female
    t["chin_out"] = n("chin out", 0.0, 0.06)
    t["chin_down"] = n("chin down", 0.0, 0.06)
    t["cheek_out"] = n("cheek out", 0.0, 0.06)
    t["cheek_height"] = n("cheek height", 0.38, 0.07)
    t["fat"] = n("fat", 0.0, 0.6)
    t["brow_ridge"] = n("brow ridge", 0.0, 0.05) - 0.03 * female
    t["neck_width"] = n("neck width", 0.6, 0.07) - 0.07 * female
    t["ear_size"] = n("ear size", 1.0, 0.13)
    t["ear_out"] = n("ear out", 0.0, 0.06)
    t["ear_y"] = n("ear y", 0.25, 0.06)
    t["skew"] = n("skew", 0.0, 0.012)


def _draw_eyes(d: Draws, t: Traits) -> None:
    """Eyes and brows."""
    n, u, female = d.normal, d.uniform, t["female"]
    t["eye_x"] = n("eye x", 0.445, 0.013)
    t["eye_width"] = n("eye width", 0.215, 0.022)
    t["eye_open"] = n("eye open", 0.092, 0.021) + 0.008 * female
    t["eye_tilt"] = n("eye tilt", -0.06, 0.14)
    t["eye_deep"] = n("eye deep", 0.5, 0.4)
    t["eye_fold"] = u("eye fold")
    t["iris_size"] = n("iris", 0.09, 0.005)
    t["lashes"] = 0.6 + 0.3 * female * u("lashes") + n("lash jitter", 0, 0.08)
    t["brow_y"] = n("brow y", -0.255, 0.05) - 0.015 * female
    t["brow_arch"] = n("brow arch", 0.06, 0.045) + 0.02 * female
    t["brow_tilt"] = n("brow tilt", 0.0, 0.13)
    t["brow_thick"] = np.clip(n("brow thick", 0.064, 0.026) - 0.014 * female, 0.02, 0.12)
    t["brow_in"] = n("brow in", 0.19, 0.05)
    t["brow_out"] = n("brow out", 0.7, 0.05)
    t["brow_dark"] = np.clip(n("brow dark", 0.82, 0.14), 0.2, 1.0)


def _draw_nose(d: Draws, t: Traits) -> None:
    """Nose."""
    n, tone, female = d.normal, t["skin_tone"], t["female"]
    t["nose_length"] = n("nose length", 0.498, 0.023) + 0.17 * (t["face_length"] - 1)
    t["nose_width"] = n("nose width", 0.17, 0.036) + 0.03 * (tone > 0.6) - 0.01 * female
    t["nose_tip"] = n("nose tip", 0.165, 0.028)
    t["nose_out"] = n("nose out", 0.0, 0.06)
    t["nose_bridge"] = n("nose bridge", 0.12, 0.028)
    t["nose_bridge_out"] = n("nose bridge out", 0.0, 0.04)
    t["nose_up"] = n("nose up", 0.0, 0.016)
    t["nostril"] = n("nostril", 0.06, 0.01)


def _draw_mouth(d: Draws, t: Traits) -> None:
    """Mouth."""
    n, u, tone, female = d.normal, d.uniform, t["skin_tone"], t["female"]
    t["mouth_y"] = t["nose_length"] + n("mouth y", 0.362, 0.017) + 0.2 * (t["face_length"] - 1)
    t["mouth_width"] = n("mouth width", 0.37, 0.014)
    t["lip_upper"] = np.clip(n("lip upper", 0.078, 0.03) + 0.02 * (tone > 0.6), 0.025, 0.16)
    t["lip_lower"] = np.clip(n("lip lower", 0.105, 0.034) + 0.015 * (tone > 0.6), 0.04, 0.2)
    t["lip_bow"] = n("lip bow", 0.3, 0.15)
    t["mouth_curve"] = n("mouth curve", 0.0, 0.014)
    t["lip_red"] = np.clip(0.3 + 0.5 * female * u("lipstick") + n("lip red", 0, 0.12), 0.05, 0.95)


def _draw_lines(d: Draws, t: Traits) -> None:
    """Lines of age and expression."""
    n, u, age = d.normal, d.uniform, t["age"]
    lines = np.clip(age * 1.2 - 0.15 + n("lines", 0, 0.15), 0, 1.2)
    t["fold"] = np.clip(0.25 + 0.6 * lines + n("fold", 0, 0.2), 0, 1.2)
    t["fold_x"] = n("fold x", 0.0, 0.04)
    t["forehead_lines"] = np.clip(lines + n("forehead lines", -0.1, 0.25), 0, 1)
    t["forehead_lines_y"] = n("forehead lines y", -0.58, 0.05)
    t["bags"] = np.clip(0.25 + 0.5 * lines + n("bags", 0, 0.2), 0, 1.1)
    t["frown_line"] = np.clip(lines * u("frown line"), 0, 1)
    t["crow_feet"] = np.clip(lines + n("crow feet", -0.1, 0.2), 0, 1)
    t["dimple"] = d.chance("dimple", 0.2) * u("dimple size", 0.3, 1.0)
    t["cleft"] = d.chance("cleft", 0.2) * u("cleft size", 0.3, 1.0)


def _draw_marks(d: Draws, t: Traits) -> None:
    """What tells one skin from another: spots, freckles, moles, a scar."""
    u, tone = d.uniform, t["skin_tone"]
    t["mottle"] = u("mottle", 0.4, 1.6)
    t["blush"] = d.normal("blush", 0.5, 0.3) * (1 - 0.6 * tone)
    t["oily"] = u("oily", 0.2, 1.0)
    t["freckles"] = d.chance("freckled", 0.15 * (tone < 0.45)) * u("freckles", 0.4, 1.0)
    for i in range(3):
        t[f"mole{i}"] = d.chance(f"mole {i}", 0.3) * u(f"mole size {i}", 0.022, 0.045)
        t[f"mole{i}_x"] = u(f"mole x {i}", -0.62, 0.62)
        t[f"mole{i}_y"] = u(f"mole y {i}", -0.7, 1.4)
    t["scar"] = d.chance("scar", 0.1)
    t["scar_x"], t["scar_y"] = u("scar x", -0.55, 0.55), u("scar y", -0.6, 1.2)
    t["scar_angle"] = u("scar angle", 0, np.pi)
    t["texture_x"], t["texture_y"] = u("texture x", -1, 1), u("texture y", -1, 1)


def _draw_hair(d: Draws, t: Traits) -> None:
    """Style, length and lines of the hair."""
    n, u = d.normal, d.uniform
    female, age = t["female"], t["age"]
    male, dark = 1 - female, _is_dark(t["skin_tone"])
    weights = {
        "bald": male * (0.05 + 0.3 * age),
        "buzzed": male * (0.13 + 0.25 * dark),
        "short": 0.85 * male + 0.15,
        "fringe": 0.28 * male + 0.12,
        "parted": 0.4 * male + 0.3,
        "long": 0.03 + 0.85 * female,
        "long fringe": 0.03 + 0.4 * female,
        "afro": 0.02 + 0.2 * dark,
    }
    styles = list(weights)
    style = d.choice("hair style", np.stack(list(weights.values()), 1))

    def is_in(*names: str) -> np.ndarray:
        return np.isin(style, [styles.index(x) for x in names]).astype(float)

    bald, buzzed, long = is_in("bald"), is_in("buzzed"), is_in("long", "long fringe")
    fringe, parted, afro = is_in("fringe", "long fringe"), is_in("parted", "long"), is_in("afro")
    t["hair_bald"] = bald
    top = u("hair top", 0.1, 0.36) * (1 - 0.85 * buzzed) * (1 - 0.9 * bald)
    t["hair_top"] = top + afro * u("afro", 0.1, 0.4)
    side = u("hair side", 0.03, 0.13) * (1 - 0.5 * buzzed)
    t["hair_side"] = side + long * u("long side", 0.0, 0.14) + afro * 0.15
    line = n("hairline", -0.76, 0.11) - 0.22 * age * male * u("receding")
    t["hairline"] = line + fringe * u("fringe", 0.25, 0.55)
    corner = n("corner", 0.06, 0.1) + 0.3 * age * male * u("corner recede")
    t["hairline_corner"] = corner * (1 - fringe)
    t["hairline_jag"] = 0.03 + 0.05 * u("jag") + 0.05 * fringe
    side_of_part = np.where(u("part side") < 0.5, -1, 1)
    t["hair_part"] = side_of_part * u("part x", 0.1, 0.5)
    t["hair_sweep"] = parted * side_of_part * u("sweep", 0.08, 0.4)
    t["hair_side_x"] = n("temple", 0.4, 0.07)
    t["sideburn"] = u("sideburn", -0.1, 0.45)
    length = np.where(long > 0, u("long length", 0.9, 2.6), u("short length", 0.0, 0.25))
    t["hair_length"] = length * (1 - bald)
    t["hair_long"] = long
    t["hair_curtain"] = u("curtain", -0.08, 0.12)
    t["hair_curl"] = u("curl") ** 2 + afro
    t["hair_strand"] = u("strand", 0.25, 0.75)
    t["hair_gloss"] = u("gloss", 0.0, 0.5)


def _draw_beard(d: Draws, t: Traits) -> None:
    """Stubble, moustache, goatee or beard."""
    n, u = d.normal, d.uniform
    can = 1 - t["female"]
    # none, stubble, moustache, goatee, full
    kind = d.choice("beard kind", [0.56, 0.14, 0.09, 0.08, 0.13])
    stubble = (kind == 1) * u("stubble", 0.2, 0.5) + (kind == 0) * u("shadow", 0.0, 0.2)
    t["beard_stubble"] = can * stubble
    t["moustache"] = can * np.isin(kind, [2, 3, 4]) * u("moustache", 0.55, 1.0)
    t["goatee"] = can * np.isin(kind, [3, 4]) * u("goatee", 0.55, 1.0)
    t["beard"] = can * (kind == 4) * u("beard", 0.55, 1.0)
    t["beard_line"] = n("beard line", 0.0, 0.1)
    t["beard_long"] = u("beard long") ** 2 * 0.3
    t["moustache_width"] = u("moustache width", 0.28, 0.48)


def _draw_glasses(d: Draws, t: Traits) -> None:
    """Who wears glasses wears them in most photographs, always the same pair."""
    u, age = d.uniform, t["age"]
    t["wears_glasses"] = d.chance("wears glasses", 0.13 + 0.3 * age)
    t["glasses_half"] = u("glasses width", 0.27, 0.37)
    t["glasses_tall"] = u("glasses height", 0.15, 0.29)
    t["glasses_round"] = u("glasses round")
    t["glasses_rim"] = u("glasses rim", 0.016, 0.05)
    t["glasses_dark"] = u("glasses dark", 0.45, 1.0)
    t["glasses_y"] = d.normal("glasses y", 0.05, 0.03)


def _skin_color(d: Draws, tone: np.ndarray) -> np.ndarray:
    """float64 ``[N, 3]``."""
    n = d.normal
    at = tone * (len(_SKIN) - 1.001)
    low, part = at.astype(int), (at % 1.0)[:, None]
    skin = _SKIN[low] * (1 - part) + _SKIN[low + 1] * part
    warm = n("warm", 0, 0.03)[:, None] * np.array([0.5, -0.2, -1.0])
    return np.clip(skin * n("skin bright", 1.0, 0.05)[:, None] + warm, 0.08, 0.97) ** 2


def _hair_color(d: Draws, t: Traits) -> np.ndarray:
    """float64 ``[N, 3]``."""
    n, age, dark = d.normal, t["age"], _is_dark(t["skin_tone"])
    old = np.clip((age - 0.45) * 2.2, 0, 1)
    weights = {
        "black": 0.22 + 1.6 * dark,
        "dark brown": 0.3 + 0.5 * dark,
        "brown": 0.3 * (1 - 0.8 * dark),
        "blond": 0.28 * (1 - dark),
        "red": 0.09 * (1 - dark),
        "grey": 0.05 + 1.6 * old,
        "white": 1.3 * np.clip(old - 0.3, 0, 1),
    }
    colors = np.array([_HAIR[name] for name in weights]) / 255.0
    color = colors[d.choice("hair color", np.stack(list(weights.values()), 1))]
    warm = n("hair warm", 0, 0.012)[:, None] * [1, 0, -1]
    return np.clip(color * n("hair bright", 1.0, 0.12)[:, None] + warm, 0.06, 0.95) ** 2


def _iris_color(d: Draws, tone: np.ndarray) -> np.ndarray:
    """float64 ``[N, 3]``."""
    n, dark = d.normal, _is_dark(tone)
    weights = [0.6 + 3 * dark, 0.4 - 0.2 * dark, 0.25 * (1 - dark), 0.45 * (1 - dark)]
    color = _IRIS[d.choice("iris color", np.stack(weights, 1))]
    return np.clip(color * n("iris bright", 1.0, 0.12)[:, None], 0, 1) ** 2
