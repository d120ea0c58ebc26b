"""One entry of the corpus, and the small language in which a family of entries is written."""

import functools
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Function = Callable[..., Any]


class Problem(NamedTuple):
    """What a checker is handed: `fn(*args, **kwargs)`, and a `reference` where one is given."""

    fn: Function
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    reference: Function | None
    plain: Function  # the function whose derivative is the truth, without any hand-written rule


@dataclass(frozen=True)
class Case:
    """A rule, the data to try it on, and the verdict that it deserves."""

    name: str
    family: str
    build: Callable[[int], Problem]
    why: str  # the mistake in one line, or why a right rule looks suspicious
    wrong: bool = False
    twin: str | None = None  # the right rule beside a wrong one
    arguments: tuple[str, ...] = ()  # every argument (or leaf) whose cotangent is wrong
    diagnosis: tuple[str, ...] = ()  # the words that truly describe the mistake
    shows: str = "gradient"  # where it shows; test_corpus_is_sound.py proves it there

    def __repr__(self) -> str:
        return self.name


@dataclass
class Twin:
    """The right rule that the wrong ones after it share their forward and their inputs with."""

    name: str
    forward: Function
    fwd: Function | None
    bwd: Function | None
    inputs: Callable[[np.random.Generator], tuple[Any, ...]]
    static: tuple[int, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    reference: Function | None = None


def rule(forward: Function, fwd: Function, bwd: Function, static: tuple[int, ...] = ()) -> Function:
    """A fresh `custom_vjp`."""
    made = jax.custom_vjp(forward, nondiff_argnums=static)
    made.defvjp(fwd, bwd)
    return made


def edited(bwd: Function, edit: Mapping[int, Function]) -> Function:
    """`bwd` with cotangent `i` replaced by `edit[i](right, *the arguments of bwd)`."""

    def wrong_bwd(*operands: Any) -> tuple[Any, ...]:
        cotangents = list(bwd(*operands))
        for i, change in edit.items():
            cotangents[i] = change(cotangents[i], *operands)
        return tuple(cotangents)

    return wrong_bwd


class Family:
    """The cases of one file. `right` opens a group; each `wrong` after it changes one thing."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.cases: list[Case] = []
        self._twin: Twin | None = None

    def __iter__(self) -> Iterator[Case]:
        return iter(self.cases)

    def right(
        self,
        name: str,
        forward: Function,
        fwd: Function | None,
        bwd: Function | None,
        inputs: Callable[[np.random.Generator], tuple[Any, ...]],
        why: str = "the right twin",
        *,
        static: tuple[int, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        reference: Function | None = None,
        make: Callable[[], Function] | None = None,
    ) -> None:
        """A right rule; without fwd and bwd, a plain function that autodiff differentiates."""
        self._twin = Twin(name, forward, fwd, bwd, inputs, static, kwargs or {}, reference)
        build = self._builder(name, self._twin, make)
        self.cases.append(Case(name, self.name, build, why))

    def wrong(
        self,
        name: str,
        arguments: str | tuple[str, ...],
        diagnosis: str | tuple[str, ...],
        why: str,
        *,
        edit: Mapping[int, Function] | None = None,
        bwd: Function | None = None,
        fwd: Function | None = None,
        forward: Function | None = None,
        inputs: Callable[[np.random.Generator], tuple[Any, ...]] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        reference: Function | None = None,
        make: Callable[[], Function] | None = None,
        shows: str = "gradient",
    ) -> None:
        """A rule like its twin but for what is given here; `make` gives the whole function anew."""
        twin = self._twin
        assert twin is not None, "a wrong rule stands beside a right one"
        if edit is not None:
            assert twin.bwd is not None
            bwd = edited(twin.bwd, edit)
        variant = Twin(
            name,
            forward or twin.forward,
            fwd or twin.fwd,
            bwd or twin.bwd,
            inputs or twin.inputs,
            twin.static,
            twin.kwargs if kwargs is None else kwargs,
            reference or twin.reference,
        )
        self.cases.append(
            Case(
                name,
                self.name,
                self._builder(name, variant, make, plain=twin.reference or twin.forward),
                why,
                wrong=True,
                twin=twin.name,
                arguments=(arguments,) if isinstance(arguments, str) else arguments,
                diagnosis=(diagnosis,) if isinstance(diagnosis, str) else diagnosis,
                shows=shows,
            )
        )

    def _builder(
        self,
        name: str,
        twin: Twin,
        make: Callable[[], Function] | None,
        plain: Function | None = None,
    ) -> Callable[[int], Problem]:
        def function() -> Function:
            if make is not None:
                return make()
            if twin.fwd is None or twin.bwd is None:
                return twin.forward
            return rule(twin.forward, twin.fwd, twin.bwd, twin.static)

        # One function for all seeds lets a checker compile once; state must begin anew each time.
        once = functools.cache(function)
        stateful = make is not None and plain is not None
        truth = plain or twin.reference or twin.forward

        def build(seed: int) -> Problem:
            rng = np.random.default_rng([zlib.crc32(name.encode()), seed])
            fn = function() if stateful else once()
            return Problem(fn, twin.inputs(rng), twin.kwargs, twin.reference, truth)

        return build


def normal(
    rng: np.random.Generator, *shape: int, scale: float = 1.0, dtype: Any = "float32"
) -> Any:
    """Normal numbers, float32 in either mode of JAX unless `dtype` says otherwise."""
    return jnp.asarray(rng.normal(size=shape) * scale, dtype=dtype)


def uniform(
    rng: np.random.Generator,
    *shape: int,
    low: float = 0.0,
    high: float = 1.0,
    dtype: Any = "float32",
) -> Any:
    """Uniform numbers in [low, high)."""
    return jnp.asarray(rng.uniform(low, high, size=shape), dtype=dtype)


def integers(rng: np.random.Generator, high: int, *shape: int) -> Any:
    """int32 in [0, high)."""
    return jnp.asarray(rng.integers(high, size=shape), dtype="int32")
