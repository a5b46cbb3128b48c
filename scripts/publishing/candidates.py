"""Converted weights that may be published, and the files that are published of them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from movinet_convert.errors import WeightsError
from movinet_convert.files.reading import file_sha256
from movinet_convert.parity.report import Section, write_page
from movinet_convert.variants import OfficialSource
from movinet_convert.weights import manifest as manifests
from movinet_convert.weights.entries import ConvertedVersion
from movinet_convert.weights.file import read_header
from movinet_convert.weights.hub_files import FILE_NAME
from movinet_convert.weights.labels import known_names
from movinet_convert.weights.load import WeightsFile
from movinet_convert.weights.manifest import MANIFEST_NAME, Manifest
from movinet_convert.weights.model_card import CardContent, write_card
from movinet_convert.weights.store import Store
from movinet_convert.weights.transformers_files import write_description
from scripts.regenerate_weights import read_section, report_path

LABELS_NAME = "labels.txt"
PAGE_NAME = "parity_report.html"
SECTION_NAME = "parity_report.json"
ALLOW = "pass --allow-synthetic for a rehearsal"


@dataclass(frozen=True)
class Candidate:
    """A verified file of a store, and its comparison with the official model.

    A ``rehearsal`` is of weights that nothing identifies as the release.
    """

    name: str
    path: Path
    entry: ConvertedVersion
    section: Section
    rehearsal: bool

    def write(self, folder: Path, address: str) -> None:
        """Write what is published: weights, labels, configurations, manifest, report and card."""
        header = read_header(self.path)
        shutil.copyfile(self.path, folder / FILE_NAME)
        if labels := known_names(header.labels, header.num_classes):
            (folder / LABELS_NAME).write_text("".join(f"{label}\n" for label in labels), "utf-8")
        write_description(folder, header, self.entry.dtype)
        (folder / MANIFEST_NAME).write_text(manifests.dump(self._manifest()), "utf-8")
        (folder / SECTION_NAME).write_text(f"{self.section.model_dump_json(indent=2)}\n", "utf-8")
        write_page(folder / PAGE_NAME, [self.section])
        content = CardContent(
            header=header,
            address=address,
            entry=self.entry,
            files={path.name: file_sha256(path) for path in sorted(folder.iterdir())},
            versions=self.section.versions,
            rehearsal=self.rehearsal,
        )
        write_card(folder, content)

    def _manifest(self) -> Manifest:
        """That of the repository, whose only weights these are."""
        entry = self.entry.model_copy(update={"file": FILE_NAME})
        described = manifests.catalogue().with_version(self.name, entry).variants[self.name]
        return Manifest(variants={self.name: described})


def candidate(
    name: str, store: Store, catalogue: Manifest, *, allow_synthetic: bool = False
) -> Candidate:
    """The current version of a variant in a store; WeightsError unless it may be published.

    Its file must be intact, have a report of its comparison with the official model, and be
    Google's release, by its digest or its official address, compared in all default cases and with
    the digests that the catalogue pins. ``allow_synthetic`` also takes weights that nothing
    identifies as the release, whatever cases they were compared in, but none of a user's.
    """
    entry = store.find(name)
    file = WeightsFile(store.folder / entry.file, name, entry)
    file.check()
    section = _section(store, entry)
    rehearsal = False
    if (reason := _reason_not_the_release(entry)) is not None:
        if not allow_synthetic:
            raise WeightsError(f"{file.path} {reason}; {ALLOW}.")
        rehearsal = True
    else:
        _check_release(file.path, entry, catalogue, name)
    return Candidate(name, file.path, entry, section, rehearsal)


def _section(store: Store, entry: ConvertedVersion) -> Section:
    """The stored comparison of a file, which passed; WeightsError if there is none."""
    path, again = store.folder / entry.file, "run scripts/regenerate_weights.py"
    if entry.parity is None:
        raise WeightsError(f"{path} was never compared with the official model; {again}.")
    report = report_path(store.folder, entry)
    section = read_section(report)
    if section is None:
        raise WeightsError(f"{path} has no report {report} that can be read; {again}.")
    if section.sha256 != entry.sha256:
        raise WeightsError(
            f"{report} is of a file with sha256 {section.sha256}, but {path} has {entry.sha256}; "
            f"{again}."
        )
    if section.parity.figures() != entry.parity:
        raise WeightsError(f"{report} has other figures than the manifest of {path}; {again}.")
    if not section.parity.passed:
        raise WeightsError(f"{path} does not agree with the official model: see {report}.")
    return section


def _reason_not_the_release(entry: ConvertedVersion) -> str | None:
    source = entry.source
    if source.kind == "release":
        return None
    if source.kind == "unpinned" and source.fetched_from in get_args(OfficialSource):
        return None
    if source.kind == "unpinned":
        return "came from a mirror, and no published digest identifies its tensors as the release"
    if source.kind == "synthetic":
        return "has random synthetic weights"
    raise WeightsError(
        f"{entry.file} was converted from {source.name}, not from a release; publish your own "
        "weights with HubMoViNet.push_to_hub."
    )


def _check_release(path: Path, entry: ConvertedVersion, catalogue: Manifest, name: str) -> None:
    """WeightsError unless it was compared in full and has the digests in the catalogue."""
    if entry.parity is None or entry.parity.coverage != "full":
        raise WeightsError(
            f"{path} was compared with the official model in a part of the default cases only; run "
            "scripts/regenerate_weights.py without --frames and --size."
        )
    described = catalogue.variants.get(name)
    if described is None:
        return
    pinned = described.current_version
    facts: Mapping[str, tuple[str | None, str]] = {
        "sha256": (pinned.sha256 if pinned else None, entry.sha256),
        "sha256 of its tensors": (described.tensors_sha256, entry.source.digest),
    }
    for fact, (expected, found) in facts.items():
        if expected not in (None, found):
            raise WeightsError(
                f"{path} has the {fact} {found}, but the catalogue pins {expected}; it is not the "
                "release that was recorded there."
            )
