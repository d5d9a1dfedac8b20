"""The rules of every learner; see :class:`metaface.learners.MetaLearner`."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from metaface.data import FaceSet
from metaface.episodes import Episodes
from metaface.evaluation import evaluate
from metaface.learners import MetaLearner, build
from metaface.nets import MODES, NormMode, refresh_statistics
from metaface.testing._rules import require, require_refusal
from metaface.testing._tasks import (
    few_tasks,
    flat_gradient,
    one,
    patterns,
    relative_error,
    tiny,
)
from metaface.training import Run, Task, train

Make = Callable[[nn.Module], MetaLearner]


def check_learner(learner: str | Make) -> None:
    """Run every rule of ``LEARNER_RULES``; about ten seconds on two cores.

    Args:
        learner: a class or function that takes an embedding network, with its options bound by
            ``functools.partial`` where it needs any; or a learner's name.

    Raises:
        AssertionError: a broken rule; says which, what was found, and why the rule is there.

    Example:
        >>> from functools import partial
        >>> import metaface as mf
        >>> mf.testing.check_learner(partial(mf.learners.ANIL, inner_steps=5))  # doctest: +SKIP
    """
    make: Make = partial(build, learner) if isinstance(learner, str) else learner
    for rule in LEARNER_RULES:
        rule(make)


def learns(make: Make) -> None:
    """Training on easy people makes it better at telling other people apart."""
    faces, _, held_out = _people()
    learner = make(tiny(width=16))
    recipe = learner.recipe
    before = evaluate(learner, held_out, episodes=100, progress=False).accuracy
    rate: dict[str, Any] = {} if recipe.optimizer == "sgd" else {"lr": max(recipe.lr, 5e-3)}
    batch = min(recipe.meta_batch, 4)
    _train(learner, faces, iterations=60, meta_batch=batch, augment=None, **rate)
    after = evaluate(learner, held_out, episodes=100, progress=False).accuracy
    require(
        after > before + 0.15 and after > 0.45,
        "60 steps of training on easy people raise the accuracy on other people by 0.15, to 0.45",
        f"accuracy {before:.3f} before and {after:.3f} after (chance is 0.2)",
        "Is the loss that of the query photographs, and does its gradient reach the embedding? "
        "Do the steps of the inner loop have a fitting length?",
    )


def is_deterministic(make: Make) -> None:
    """The same seed gives the same weights, another seed others."""

    def trained(seed: int) -> Tensor:
        learner = make(tiny())
        _train(learner, _people()[0], iterations=2, seed=seed)
        return torch.cat([p.detach().flatten() for p in learner.parameters()])

    require(
        torch.equal(trained(0), trained(0)),
        "training twice with one seed gives the same weights",
        "other weights",
        "Take no random numbers but those of the tasks, or a figure cannot be repeated and a run "
        "cannot be resumed.",
    )
    require(
        not torch.equal(trained(0), trained(1)),
        "training with another seed gives other weights",
        "the same weights",
        "Nothing was learnt from the tasks: does the meta-gradient reach the parameters?",
    )


def is_unchanged_by_adapt(make: Make) -> None:
    """``adapt`` gives the same answer twice and leaves weights, gradients and mode alone."""
    for norm in MODES:
        learner, tasks = _shaken(make, norm), few_tasks(2)
        learner.meta_step(tasks)
        weights = {n: v.clone() for n, v in learner.state_dict().items()}
        gradient = flat_gradient(learner)
        photos, labels, queries = _task(tasks)
        for mode in (True, False):
            learner.train(mode)
            first = learner.adapt(photos, labels)
            scores = first(queries)
            _adapting(
                not scores.requires_grad,
                "the scores of an adapted classifier carry no gradient",
                norm,
                "scores that require a gradient",
            )
            _adapting(
                torch.equal(learner.adapt(photos, labels)(queries), scores),
                "adapting twice to the same photographs gives the same scores",
                norm,
                "other scores",
            )
            _adapting(
                all(module.training is mode for module in learner.modules()),
                "adapt leaves every module in the mode (train or eval) that it was in",
                norm,
                "another mode",
            )
        moved = [n for n, v in learner.state_dict().items() if not torch.equal(v, weights[n])]
        _adapting(not moved, "adapt leaves all weights", norm, f"others in {', '.join(moved)}")
        _adapting(
            torch.equal(flat_gradient(learner), gradient),
            "adapt leaves the gradients of the parameters",
            norm,
            "other gradients",
        )
        _shake(learner)
        _adapting(
            torch.equal(first(queries), scores),
            "training goes on without changing a classifier that is in use",
            norm,
            "other scores after the learner's weights were changed",
        )
        _adapting(
            not torch.equal(learner.adapt(photos, labels)(queries), scores),
            "a learner of other weights adapts to something else",
            norm,
            "the same scores: the weights in theta are not used",
        )


def is_equivariant(make: Make) -> None:
    """Numbering the people otherwise numbers the scores otherwise, and changes nothing else."""
    learner, tasks = _shaken(make), few_tasks(1)
    photos, labels, queries = _task(tasks)
    renamed = torch.tensor([2, 0, 1])
    scores = learner.adapt(photos, labels)(queries)
    again = learner.adapt(photos, renamed[labels])(queries)[:, renamed]
    require(
        torch.allclose(again, scores, rtol=1e-7, atol=1e-7),
        "numbering the people otherwise permutes the columns of the scores alike",
        f"scores that differ by up to {float((again - scores).abs().max()):.2g}",
        "A person's number says nothing about them: start the head from zero or from one row that "
        "all people share.",
    )


def takes_any_people(make: Make) -> None:
    """Any number of people, with unequal shots, whatever it was trained with."""
    rule = "a learner trained at one way adapts to any number of people, with unequal shots"
    why = "A gallery grows by one person at a time: ways is an argument of fit, not of the learner."
    for shots in ((1, 1), (3, 1, 2), (1,) * 8):
        learner = _shaken(make)
        learner.meta_step(few_tasks(ways=3, shots=2))
        faces = few_tasks(1, ways=len(shots), shots=3)
        labels = torch.arange(len(shots)).repeat_interleave(torch.tensor(shots))
        photos = torch.cat([faces.support[0][3 * i : 3 * i + k] for i, k in enumerate(shots)])
        try:
            classifier = learner.adapt(photos, labels)
            scores = classifier(faces.query[0])
        except Exception as error:
            raise AssertionError(
                f"broken rule: {rule}. Found: {type(error).__name__} with shots {shots}: {error}. "
                f"{why}"
            ) from error
        fits = scores.shape == (2 * len(shots), len(shots)) and bool(scores.isfinite().all())
        require(
            fits and classifier.ways == len(shots),
            rule,
            f"scores {list(scores.shape)} for {len(shots)} people and {2 * len(shots)} queries, "
            f"finite: {bool(scores.isfinite().all())}",
            why,
        )
        require(
            torch.equal(classifier.predict(faces.query[0]), scores.argmax(-1)),
            "predict gives the person of the highest score",
            "another person",
            "score must return logits [T, Q, ways].",
        )


def saves_and_loads(make: Make) -> None:
    """Its ``state_dict`` holds all that it has learnt."""
    for norm in MODES:
        learner = _shaken(make, norm)
        photos, labels, queries = _task(few_tasks(1))
        file = io.BytesIO()
        torch.save(learner.state_dict(), file)
        file.seek(0)
        loaded = make(tiny(norm, seed=5)).double()
        loaded.load_state_dict(torch.load(file, weights_only=True))
        require(
            torch.equal(
                loaded.adapt(photos, labels)(queries), learner.adapt(photos, labels)(queries)
            ),
            "a learner whose state_dict is loaded into a fresh one gives the same scores, exactly",
            f"other scores, with norm {norm}",
            "A checkpoint is the state_dict: what is learnt must be a parameter or a buffer.",
        )


def refuses_bad_shapes(make: Make) -> None:
    """Tensors that do not make tasks are refused by name, before they run."""
    learner, tasks = make(tiny()), few_tasks()
    rule = "tensors of a wrong shape are refused by name"
    for side in ("support", "query"):
        images, labels = getattr(tasks, side), getattr(tasks, f"{side}_y")
        bad: Sequence[dict[str, Any]] = (
            {side: images[0]},
            {side: images[:, 1:]},
            {f"{side}_y": labels[:2]},
            {side: images[:2], f"{side}_y": labels[:2]},
        )
        for wrong in bad:
            require_refusal(
                partial(learner.meta_step, replace(tasks, **wrong)),
                rule,
                f"{side} must be [B, n, C, H, W]",
                "got [",
            )
    photos, labels = torch.rand(4, 3, 16, 16), torch.tensor([0, 0, 1, 1])
    for pair in ((photos[0], labels), (photos, labels[:3]), (photos, labels[:, None])):
        require_refusal(partial(learner.adapt, *pair), rule, "images [S, C, H, W]", "got [")
    rule = "labels other than 0..N-1 are refused by value"
    for numbers in ([0, 0, 2, 2], [1, 1, 2, 2], [-1, 0, 0, 1]):
        given = torch.tensor(numbers)
        require_refusal(
            partial(learner.adapt, photos, given), rule, "every number of 0..N-1, got [", "renumber"
        )
    require_refusal(partial(learner.adapt, photos[:0], labels[:0]), rule, "labels")


def keeps_tasks_apart(make: Make) -> None:
    """A batch of tasks is the same as the tasks one by one."""
    rule = "a batch of tasks gives what its tasks give one by one"
    why = (
        "Every tensor leads with the task, T: a sum or a mean over all tasks mixes them, and the "
        "result depends on how many are taken at once."
    )
    for norm in MODES:
        learner, tasks = _shaken(make, norm), few_tasks(3)
        alone = [one(tasks, i) for i in range(3)]
        before = copy.deepcopy(learner.state_dict())
        learner.meta_step(tasks)
        together = flat_gradient(learner)
        gradients = []
        for task in alone:
            learner.load_state_dict(before)
            learner.meta_step(task)
            gradients.append(flat_gradient(learner))
        error = relative_error(together, torch.stack(gradients).mean(0))
        require(error < 1e-9, rule, f"meta-gradients {error:.2g} apart, norm {norm}", why)
        for mode in (True, False):
            learner.train(mode)
            learner.task_chunk = None
            logits = learner.logits(tasks).detach()
            want = torch.cat([learner.logits(task) for task in alone]).detach()
            error = relative_error(logits, want)
            require(error < 1e-10, rule, f"logits {error:.2g} apart, norm {norm}", why)
            for chunk in (1, 2):
                learner.task_chunk = chunk
                error = relative_error(learner.logits(tasks).detach(), logits)
                require(error < 1e-10, rule, f"logits {error:.2g} apart in chunks of {chunk}", why)
        photos, labels, queries = _task(tasks)
        error = relative_error(learner.adapt(photos, labels)(queries), logits[0])
        require(error < 1e-10, "adapt gives what evaluation gives", f"{error:.2g} apart", why)


def keeps_queries_apart(make: Make) -> None:
    """A query's score does not depend on the other queries, but for norm ``batch``."""
    for norm in MODES:
        learner = _shaken(make, norm)
        photos, labels, queries = _task(few_tasks(1))
        classifier = learner.adapt(photos, labels)
        together = classifier(queries)
        apart = torch.cat([classifier(query[None]) for query in queries])
        alike = torch.allclose(together, apart, rtol=1e-9, atol=1e-9)
        require(
            learner.norm == norm and (learner.transductive or norm != "batch"),
            "norm is the embedding's, and with norm batch a learner is transductive",
            f"norm {learner.norm}, transductive {learner.transductive}, with norm {norm}",
            "Results are told apart by them.",
        )
        require(
            alike != learner.transductive,
            "a learner whose queries see each other says so, and no other does",
            f"scores of single queries {'are' if alike else 'are not'} those of all, norm {norm}",
            "One photograph must be identified as it is in a group; whatever looks at all queries "
            "is transductive, and must say so.",
        )


def runs_on_every_device(make: Make) -> None:
    """On a GPU, where there is one, it gives what it gives on the CPU."""
    faces, _, held_out = _people()
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        learner = make(tiny())
        _train(learner, faces, iterations=1, device=device)
        require(
            {p.device.type for p in learner.parameters()} == {device},
            "all parameters move to the device",
            f"others than {device}",
            "Hold tensors as parameters or buffers.",
        )
        accuracy = evaluate(learner, held_out, episodes=3, progress=False).accuracy
        require(0 <= accuracy <= 1, "an accuracy is a share", f"{accuracy}", "Are scores finite?")
        photos, labels, queries = _task(few_tasks(1).to(torch.float32))
        adapted = learner.adapt(photos.to(device), labels.to(device))
        scores = adapted(queries.to(device)).cpu()
        want = learner.cpu().adapt(photos, labels)(queries)
        require(
            torch.allclose(scores, want, rtol=1e-2, atol=1e-2),
            "every device gives the same scores, but for rounding",
            f"scores on {device} up to {float((scores - want).abs().max()):.2g} apart",
            "Make new tensors on the device of what is given: features.new_zeros(...).",
        )


def runs_in_threads(make: Make) -> None:
    """Chunks of tasks in several threads give the same meta-gradient."""
    tasks, gradients = few_tasks(8), []
    for chunk, threads in ((8, 1), (1, 3)):
        learner = _shaken(make)
        learner.task_chunk = chunk
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            learner.meta_step(tasks)
            left = torch.get_num_threads()
        finally:
            torch.set_num_threads(before)
        require(
            left == threads,
            "meta_step leaves the number of threads",
            f"{left} instead of {threads}",
            "It is the whole process's.",
        )
        gradients.append(flat_gradient(learner))
    error = relative_error(gradients[1], gradients[0])
    require(
        error < 1e-10,
        "tasks in chunks and threads give the meta-gradient of all at once",
        f"meta-gradients {error:.2g} apart",
        "fit runs in several threads at once: it must not write to the learner.",
    )


LEARNER_RULES: tuple[Callable[[Make], None], ...] = (
    refuses_bad_shapes,
    takes_any_people,
    is_equivariant,
    is_unchanged_by_adapt,
    saves_and_loads,
    is_deterministic,
    keeps_tasks_apart,
    keeps_queries_apart,
    runs_in_threads,
    runs_on_every_device,
    learns,
)
"""The rules, each a function of what makes the learner; the quick ones first."""


@cache
def _people() -> tuple[FaceSet, FaceSet, FaceSet]:
    return patterns(60).split(val=0, test=0.3)


def _train(
    learner: MetaLearner,
    faces: FaceSet,
    iterations: int,
    *,
    seed: int = 0,
    device: str = "cpu",
    **task: Any,
) -> None:
    run = Run(seed=seed, device=device, progress=False)
    train(learner, faces, iterations=iterations, task=Task(**task), run=run)


def _task(tasks: Episodes) -> tuple[Tensor, Tensor, Tensor]:
    """Photographs, labels and queries of the first task."""
    return tasks.support[0], tasks.support_y[0], tasks.query[0]


def _shaken(make: Make, norm: NormMode = "group") -> MetaLearner:
    learner = make(tiny(norm))
    learner.begin(patterns(8, 6, 16))  # the people of few_tasks
    return _shake(learner)


def _shake(learner: MetaLearner) -> MetaLearner:
    """``learner`` in float64 with every weight and population statistic somewhere else."""
    learner.double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in learner.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.mul_(1 + 0.1 * noise)
    refresh_statistics(learner.embedding, [few_tasks(1, ways=5).support[0]])
    return learner


def _adapting(holds: bool, rule: str, norm: str, found: str) -> None:
    why = "fit takes theta and returns what score needs; it must not change the learner."
    require(holds, rule, f"{found}, with norm {norm}", why)
