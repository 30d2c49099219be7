"""The options of a purifier on a command line: `--purifier.kind`, and the settings of all kinds side by side."""

import inspect
import re
from collections.abc import Sequence
from functools import cache
from typing import Any, get_type_hints

import tyro
from rp_purify.settings import KINDS, PurifierSettings, settings_of, uses
from rp_purify.settings.base import ROLES

REGISTRY = tyro.constructors.ConstructorRegistry()


@REGISTRY.struct_rule
def _flat(info: tyro.constructors.StructTypeInfo) -> tyro.constructors.StructConstructorSpec | None:
    """A field of `PurifierSettings` takes the settings of every kind; one that its kind does not use is refused."""
    if not (isinstance(info.type, type) and issubclass(info.type, PurifierSettings)):
        return None
    start = info.default if isinstance(info.default, PurifierSettings) else settings_of("mae-pure")
    given = {name: getattr(start, name) for name in uses(start.kind)}

    def chosen(kind: str, preset: str, **values: Any) -> PurifierSettings:
        named = {n: v for n, v in values.items() if (v != given[n] if n in given else v is not None)}
        if preset:
            return _from_preset(preset, kind if kind != start.kind else "", given, named)
        kept = {n: v for n, v in given.items() if n in uses(kind)}
        return settings_of(kind, **{**kept, **named})

    words = f"one of {', '.join(KINDS)}; another kind keeps the settings that it shares"
    fields = [
        tyro.constructors.StructFieldSpec("kind", str, start.kind, words),
        tyro.constructors.StructFieldSpec("preset", str, "", "published settings, such as cifar10/mae-pure; see docs"),
    ]
    for name, (annotation, help_) in _settings().items():
        foreign = name not in given
        annotation = annotation | None if foreign else annotation
        fields.append(tyro.constructors.StructFieldSpec(name, annotation, given.get(name), help_))
    return tyro.constructors.StructConstructorSpec(chosen, tuple(fields))


def _from_preset(preset: str, kind: str, given: dict[str, Any], named: dict[str, Any]) -> PurifierSettings:
    """The settings of a preset, with the networks at hand and what is named beside it."""
    from rp_purify.rival_presets import preset_entry

    found, own = preset_entry(preset)
    if kind and kind.replace("_", "-") != found:
        raise ValueError(f"the preset {preset} is of kind {found}, leave out --purifier.kind {kind}")
    networks = {name: value for name, value in given.items() if name in ROLES and name in uses(found)}
    return settings_of(found, **{**networks, **own, **named})


def check_presets(words: Sequence[str], options: Any) -> None:
    """Raise a ValueError where a preset on the command line is for images of another size than the data set's."""
    for word, after in zip(words, [*words, ""][1:], strict=True):
        name, equals, value = word.partition("=")
        if not (name.startswith("--") and name.rpartition(".")[2] == "preset"):
            continue
        if data := getattr(getattr(options, "config", None), "data", ""):
            from rp_models.data.catalog import describe
            from rp_purify.rival_presets import check_preset

            check_preset(value if equals else after, describe(data))


@cache
def _settings() -> dict[str, tuple[Any, str]]:
    """Type and help of every setting: the comment beside it, and the kinds that have it."""
    comments = {cls: _comments(cls) for kind in KINDS.values() for cls in kind.__mro__}
    kinds = {name: [kind for kind in KINDS if name in uses(kind)] for kind in KINDS for name in uses(kind)}
    found = {}
    for name, having in kinds.items():
        first = KINDS[having[0]]
        comment = next(comments[cls][name] for cls in first.__mro__ if name in comments[cls])
        found[name] = (get_type_hints(first)[name], f"of {', '.join(having)}: {comment}")
    return found


def _comments(cls: type) -> dict[str, str]:
    """The comment behind each field of a dataclass."""
    if not issubclass(cls, PurifierSettings):
        return {}
    return dict(re.findall(r"^    (\w+): .*?  # (.*)$", inspect.getsource(cls), flags=re.MULTILINE))
