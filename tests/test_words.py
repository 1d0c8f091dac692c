"""The field's terms in code, log lines and documentation: words that a reader would have to learn are refused."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
CODE = sorted((ROOT / "ganscale").rglob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

PHRASES = {
    r"(?<!-)(?:life|lives)": "attempt",
    r"signs? of life": "heartbeat",
    r"told": "logged, set",
    r"say|(?:is|are|was|were) said|speaks": "logged, warned",
    r"(?:go|goes|going|gone|went) on": "resumes, continues",
    r"mend(?:s|ed|ing)?": "fix, repair",
    r"count(?:s|ed|ing)?(?: \w+){0,3} out": "declared dead",
    r"(?:node|worker|rank|process|trial|head|it)(?:e?s)? (?:that )?(?:is|are|was|were|has|have) gone": "lost",
    r"spoil(?:t|ed|s)?": "corrupted",
    r"sick": "unhealthy",
    r"sound": "healthy",
    r"grave": "critical",
    r"asked to leave|leaving at": "stop requested",
    r"(?:is|was|were) left at": "stopped at",
    r"fingerprint\w*": "state hash, checksum",
    r"whoever": "a process that, a caller that",
    r"anew": "again, from the start",
}
"""Regular expressions of whole words, with what stands in their place."""

IDENTIFIERS = {
    **dict.fromkeys(("life", "lives"), "attempt"),
    **dict.fromkeys(("Beat", "beat", "beats", "alive"), "heartbeat"),
    **dict.fromkeys(("told", "say", "says", "speaks"), "logged, warned, is_rank_zero"),
    **dict.fromkeys(("Notice", "notice"), "StopSignal, stop_signal"),
    **dict.fromkeys(("Outlets", "Painter"), "TrackerGroup, SampleRenderer"),
    **dict.fromkeys(("Lookout", "Watch", "Board", "Notes"), "ClusterMonitor, HealthMonitor, ProgressCallback"),
    **dict.fromkeys(("Growth", "Demand", "when_placed"), "ScaleUpPolicy, PlacementRequest, wait_for_placement"),
    **dict.fromkeys(("Workplace", "OwnProcess", "Candidate"), "TrialExecutor, InProcessExecutor, MultiSeedTrial"),
    **dict.fromkeys(("Feed", "Proposals", "Learner"), "BatchSampler, ReplayableSearcher, OptunaSampler"),
    **dict.fromkeys(("_settle", "made", "widen"), "_build_ddp_buckets, fakes, upcast"),
    **dict.fromkeys(("Patient", "heard", "Line"), "NodeProbe, reachable, CheckResult"),
    **dict.fromkeys(("SWOLLEN", "ALIKE", "SEES"), "fields of Thresholds"),
    **dict.fromkeys(("odd_ones", "fingerprint"), "minority_ranks, state_hash"),
    **dict.fromkeys(("judge", "Plan"), "a name of its own"),
    "again": "previous_failure",
}
"""Names of classes, functions, parameters, attributes and variables, with what stands in their place."""

WORDS = "|".join(PHRASES).replace(" ", r"\s+(?:#\s+)?")
PATTERN = re.compile(rf"\b(?:{WORDS})\b", re.IGNORECASE)


def identifiers(path: Path) -> set[str]:
    """Names that a module defines."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.add(name)
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                found.add(name)
    return found


def test_the_patterns_find_what_they_should() -> None:
    assert PATTERN.findall("A new life goes\n    # on; half-life, lifetime") == ["life", "goes\n    # on"]
    assert PATTERN.findall("Ray counts a lost node out: no sign of life") == ["counts a lost node out", "sign of life"]


def test_code_and_pages_use_the_fields_terms() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in (*CODE, *PAGES)}
    found = [
        f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, hit.start()) + 1}: {' '.join(hit[0].split())}"
        for path, text in texts.items()
        for hit in PATTERN.finditer(text)
    ]
    assert not found, f"{len(found)} words, see PHRASES:\n" + "\n".join(found)


def test_identifiers_are_the_fields_terms() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {name}, not {IDENTIFIERS[name]}"
        for path in CODE
        for name in sorted(identifiers(path) & IDENTIFIERS.keys())
    ]
    assert not found, "\n".join(found)
