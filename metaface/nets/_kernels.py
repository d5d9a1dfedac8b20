"""The passes of :mod:`metaface.nets.fused` over memory, compiled by numba; its letters are theirs.

Each takes addresses of numbers of the kind of ``zero``, with channels innermost. Photographs come
in sets, whose channels share statistics in groups of ``group`` neighbours; ``rows`` is the number
of gammas: one that all sets share, or one for each run of ``sets // rows`` sets. Sums over pixels
go from rows of a picture into float64. A loop over channels writes to two arrays at most and has
all coefficients in one: with more, the compiler gives up proving them apart, and does not
vectorise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, njit, types
from numba.extending import intrinsic

EPS = 1e-5


@intrinsic
def _at(typing: Any, address: Any, kind: Any) -> Any:
    """The address as a pointer to numbers of the kind of a number."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(kind)(types.int64, kind), generate


_compile = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})


@_compile
def _sizes(shape: Any, pool: bool) -> Any:
    """Of the photographs and of what is left of them; how many numbers share a mean."""
    sets, images, height, width, channels, group, rows = shape
    h, w = (height // 2, width // 2) if pool else (height, width)
    large, small = (sets, images, height, width, channels), (sets, images, h, w, channels)
    return large, small, (sets, channels), (rows, channels), images * height * width * group


@_compile
def _share(sums: Any, group: Any) -> None:
    """Replace each channel's sums by those of its group."""
    kinds, channels = sums.shape
    for k in range(kinds):
        for first in range(0, channels, group):
            total = 0.0
            for c in range(first, first + group):
                total += sums[k, c]
            for c in range(first, first + group):
                sums[k, c] = total


@_compile
def _collect(total: Any, row: Any) -> None:
    kinds, channels = row.shape
    for k in range(kinds):
        for c in range(channels):
            total[k, c] += row[k, c]
            row[k, c] = 0


@_compile
def forward(at: Any, shape: Any, zero: Any, pool: bool, relu: bool) -> None:
    """From x, gamma and beta: y, z, the places that were pooled, mean and s."""
    x_at, gamma_at, beta_at, y_at, z_at, places_at, mean_at, s_at = at
    sets, images, height, width, channels, group, rows = shape
    large, small, by_set, by_row, count = _sizes(shape, pool)
    x = carray(_at(x_at, zero), large)
    gamma, beta = carray(_at(gamma_at, zero), by_row), carray(_at(beta_at, zero), by_row)
    y, z = carray(_at(y_at, zero), small), carray(_at(z_at, zero), small)
    places = carray(_at(places_at, np.uint8(0)), small)
    mean, s = carray(_at(mean_at, zero), by_set), carray(_at(s_at, zero), by_set)
    h, w = small[2:4]
    total, row = np.zeros((2, channels), np.float64), np.full((2, channels), zero)
    k = np.full((5, channels), zero)
    for t in range(sets):
        g = t * rows // sets
        for c in range(channels):
            k[0, c] = -1 if pool and gamma[g, c] < 0 else 1
            k[3, c], k[4, c] = gamma[g, c], beta[g, c]
        total[:] = 0
        for i in range(images):
            for r in range(h if pool else 0):
                for q in range(w):
                    for c in range(channels):
                        a0, a1 = x[t, i, 2 * r, 2 * q, c], x[t, i, 2 * r, 2 * q + 1, c]
                        a2, a3 = x[t, i, 2 * r + 1, 2 * q, c], x[t, i, 2 * r + 1, 2 * q + 1, c]
                        row[0, c] += a0 + a1 + a2 + a3
                        row[1, c] += a0 * a0 + a1 * a1 + a2 * a2 + a3 * a3
                        a0, a1, a2, a3 = a0 * k[0, c], a1 * k[0, c], a2 * k[0, c], a3 * k[0, c]
                        best, place = a0, np.int32(0)
                        if a1 > best:
                            best, place = a1, np.int32(1)
                        if a2 > best:
                            best, place = a2, np.int32(2)
                        if a3 > best:
                            best, place = a3, np.int32(3)
                        z[t, i, r, q, c] = best
                        places[t, i, r, q, c] = place
                _collect(total, row)
            for r in range(height):
                for q in range(2 * w if pool and r < 2 * h else 0, width):
                    for c in range(channels):
                        row[0, c] += x[t, i, r, q, c]
                        row[1, c] += x[t, i, r, q, c] * x[t, i, r, q, c]
                _collect(total, row)
        _share(total, group)
        for c in range(channels):
            m = total[0, c] / count
            mean[t, c] = m
            s[t, c] = 1 / np.sqrt(max(total[1, c] / count - m * m, 0.0) + EPS)
            k[1, c], k[2, c] = s[t, c] * k[0, c], -mean[t, c] * s[t, c]
        for i in range(images):
            for r in range(h):
                for q in range(w):
                    for c in range(channels):
                        value = z[t, i, r, q, c] if pool else x[t, i, r, q, c]
                        z[t, i, r, q, c] = value * k[1, c] + k[2, c]
                    for c in range(channels):
                        value = z[t, i, r, q, c] * k[3, c] + k[4, c]
                        y[t, i, r, q, c] = zero if relu and value <= 0 else value


@_compile
def backward(at: Any, shape: Any, zero: Any, pool: bool, relu: bool) -> None:
    """From the gradient by y: those by x, gamma and beta."""
    x_at, gamma_at, y_at, z_at, places_at, mean_at, s_at, by_y_at = at[:8]
    by_x_at, by_gamma_at, by_beta_at = at[8:]
    sets, images, height, width, channels, group, rows = shape
    large, small, by_set, by_row, count = _sizes(shape, pool)
    x, by_x = carray(_at(x_at, zero), large), carray(_at(by_x_at, zero), large)
    gamma = carray(_at(gamma_at, zero), by_row)
    y, z = carray(_at(y_at, zero), small), carray(_at(z_at, zero), small)
    places = carray(_at(places_at, np.uint8(0)), small)
    mean, s = carray(_at(mean_at, zero), by_set), carray(_at(s_at, zero), by_set)
    by_y = carray(_at(by_y_at, zero), small)
    by_gamma, by_beta = (
        carray(_at(by_gamma_at, zero), by_row),
        carray(_at(by_beta_at, zero), by_row),
    )
    h, w = small[2:4]
    total, row = np.zeros((2, channels), np.float64), np.full((2, channels), zero)
    k = np.full((3, channels), zero)
    by_gamma[:] = 0
    by_beta[:] = 0
    for t in range(sets):
        g = t * rows // sets
        total[:] = 0
        for i in range(images):
            for r in range(h):
                for q in range(w):
                    for c in range(channels):
                        u = by_y[t, i, r, q, c]
                        u = zero if relu and y[t, i, r, q, c] <= 0 else u
                        row[0, c] += u
                        row[1, c] += u * z[t, i, r, q, c]
                _collect(total, row)
        for c in range(channels):
            by_beta[g, c] += total[0, c]
            by_gamma[g, c] += total[1, c]
            total[0, c] *= gamma[g, c] / count
            total[1, c] *= gamma[g, c] / count
        _share(total, group)
        for c in range(channels):
            square = np.float64(s[t, c]) * s[t, c] * total[1, c]
            k[0, c] = square * mean[t, c] - s[t, c] * total[0, c]
            k[1, c] = -square
            k[2, c] = s[t, c] * gamma[g, c]
        for i in range(images):
            for r in range(height):
                for q in range(width):
                    a, b = (r // 2, q // 2) if pool else (r, q)
                    place = np.uint8(2 * (r % 2) + q % 2)
                    for c in range(channels):
                        by_x[t, i, r, q, c] = k[0, c] + k[1, c] * x[t, i, r, q, c]
                    for c in range(channels if a < h and b < w else 0):
                        u = by_y[t, i, a, b, c] * k[2, c]
                        u = zero if relu and y[t, i, a, b, c] <= 0 else u
                        u = zero if pool and places[t, i, a, b, c] != place else u
                        by_x[t, i, r, q, c] += u


@_compile
def _pick(x: Any, h: Any, places: Any, picked: Any, total: Any, t: int, pool: bool) -> None:
    """Of set t: h where it was pooled, and the sums of h and of h x into ``total``."""
    _, images, height, width, channels = x.shape
    high, wide = picked.shape[2:4]
    row = np.zeros((2, channels), x.dtype)
    for i in range(images):
        for r in range(height):
            for q in range(width):
                for c in range(channels):
                    row[0, c] += h[t, i, r, q, c]
                    row[1, c] += h[t, i, r, q, c] * x[t, i, r, q, c]
                a, b = (r // 2, q // 2) if pool else (r, q)
                place = np.uint8(2 * (r % 2) + q % 2)
                if a >= high or b >= wide:
                    continue
                if not pool or place == 0:
                    for c in range(channels):
                        picked[t, i, a, b, c] = h[t, i, r, q, c]
                else:
                    for c in range(channels):
                        value, before = h[t, i, r, q, c], picked[t, i, a, b, c]
                        there = places[t, i, a, b, c] == place
                        picked[t, i, a, b, c] = value if there else before
            _collect(total, row)


@_compile
def _find_factors(total: Any, k: Any, count: int, group: int) -> None:
    """What the passes of :func:`second` multiply by, of a set's sums.

    Args:
        total: sums of h, h x, gu times h where it was pooled, gu, gu z; room for two more, those of
            the gradient by z that comes by way of gamma's, hg gu, and of it times z.
        k: gamma, s, mean, hb and hg in the last five rows; the factors into the others.
    """
    channels = total.shape[1]
    for c in range(channels):
        total[5, c], total[6, c] = k[10, c] * total[3, c], k[10, c] * total[4, c]
        for kind in range(2, 5):
            total[kind, c] *= k[6, c]
    _share(total, group)
    for c in range(channels):
        root, m = np.float64(k[7, c]), np.float64(k[8, c])
        sum0, a0, a1 = total[0, c], total[3, c] / count, total[4, c] / count
        sum1 = (total[1, c] - m * sum0) * root
        by_s = total[2, c] - a0 * sum0 - a1 * sum1
        square = root * root / count
        slope = square * root * (2 * a1 * sum1 - by_s) - square * total[6, c]
        k[0, c] = square * (a1 * sum0 + a0 * sum1) - slope * m - root * total[5, c] / count
        k[1, c], k[2, c] = slope, -root * root * a1
        k[3, c] = root * k[10, c] - square * sum1 * k[6, c]
        k[4, c], k[5, c] = -root * sum0 / count, -root * sum1 / count


@_compile
def second(at: Any, shape: Any, zero: Any, pool: bool, relu: bool) -> None:
    """From the gradients h, hg and hb by what :func:`backward` returns: those by its gradient by
    y, by x and by gamma."""
    x_at, gamma_at, y_at, z_at, places_at, mean_at, s_at, by_y_at = at[:8]
    h_at, hg_at, hb_at, out_y_at, out_x_at, out_gamma_at = at[8:]
    sets, images, height, width, channels, group, rows = shape
    large, small, by_set, by_row, count = _sizes(shape, pool)
    x, h = carray(_at(x_at, zero), large), carray(_at(h_at, zero), large)
    gamma, out_gamma = carray(_at(gamma_at, zero), by_row), carray(_at(out_gamma_at, zero), by_row)
    y, z = carray(_at(y_at, zero), small), carray(_at(z_at, zero), small)
    places = carray(_at(places_at, np.uint8(0)), small)
    mean, s = carray(_at(mean_at, zero), by_set), carray(_at(s_at, zero), by_set)
    by_y, out_y = carray(_at(by_y_at, zero), small), carray(_at(out_y_at, zero), small)
    hg, hb = carray(_at(hg_at, zero), by_row), carray(_at(hb_at, zero), by_row)
    out_x = carray(_at(out_x_at, zero), large)
    high, wide = small[2:4]
    total, row = np.zeros((7, channels), np.float64), np.full((3, channels), zero)
    k = np.full((11, channels), zero)
    out_gamma[:] = 0
    for t in range(sets):
        g = t * rows // sets
        total[:] = 0
        _pick(x, h, places, out_y, total, t, pool)
        for i in range(images):
            for r in range(high):
                for q in range(wide):
                    for c in range(channels):
                        u = by_y[t, i, r, q, c]
                        u = zero if relu and y[t, i, r, q, c] <= 0 else u
                        row[0, c] += u * out_y[t, i, r, q, c]
                        row[1, c] += u
                        row[2, c] += u * z[t, i, r, q, c]
                _collect(total[2:], row)
        for c in range(channels):
            k[6, c], k[7, c], k[8, c] = gamma[g, c], s[t, c], mean[t, c]
            k[9, c], k[10, c] = hb[g, c], hg[g, c]
        _find_factors(total, k, count, group)
        total[0] = 0
        for i in range(images):
            for r in range(height):
                for q in range(width):
                    a, b = (r // 2, q // 2) if pool else (r, q)
                    place = np.uint8(2 * (r % 2) + q % 2)
                    for c in range(channels):
                        slope = k[1, c] * x[t, i, r, q, c] + k[2, c] * h[t, i, r, q, c]
                        out_x[t, i, r, q, c] = k[0, c] + slope
                    for c in range(channels if a < high and b < wide else 0):
                        u = by_y[t, i, a, b, c] * k[3, c]
                        u = zero if relu and y[t, i, a, b, c] <= 0 else u
                        u = zero if pool and places[t, i, a, b, c] != place else u
                        out_x[t, i, r, q, c] += u
            for r in range(high):
                for q in range(wide):
                    for c in range(channels):
                        by_z = out_y[t, i, r, q, c] * k[7, c] + k[4, c] + k[5, c] * z[t, i, r, q, c]
                        by_z = zero if relu and y[t, i, r, q, c] <= 0 else by_z
                        out_y[t, i, r, q, c] = by_z
                    for c in range(channels):
                        row[0, c] += out_y[t, i, r, q, c] * by_y[t, i, r, q, c]
                    for c in range(channels):
                        by_u = out_y[t, i, r, q, c] * k[6, c] + k[10, c] * z[t, i, r, q, c]
                        by_u = zero if relu and y[t, i, r, q, c] <= 0 else by_u + k[9, c]
                        out_y[t, i, r, q, c] = by_u
                _collect(total[:1], row[:1])
        for c in range(channels):
            out_gamma[g, c] += total[0, c]
