"""The deterioration model's card: what it is for, what it was made from, how good it is, and what it cannot do.

The verdict against the simple baselines comes first, whichever way it went. Wording is that of a general-wellness
product; sections follow TRIPOD+AI where a wellness model has something to say.
"""

from collections.abc import Mapping
from typing import Any

from clinical.vitals import FEATURES, HORIZON_DAYS, WINDOW_DAYS
from registry.store import Manifest


def verdict(metrics: Mapping[str, Any]) -> str:
    """One sentence: whether the model ranks windows better than every baseline, by the paired interval."""
    hardest = max(metrics["baselines"], key=metrics["baselines"].get)
    gap = metrics["difference_from_baselines"][hardest]
    figures = (
        f"AUROC {metrics['auroc']:.3f} against {metrics['baselines'][hardest]:.3f} of the best one, "
        f"{hardest.replace('_', ' ')}; difference {gap['value']:+.3f}, "
        f"95 % interval {gap['low']:+.3f} to {gap['high']:+.3f}"
    )
    if metrics["beats_baselines"]:
        return f"The model ranks weeks better than every simple baseline ({figures})."
    return f"The model is NOT shown to rank weeks better than every simple baseline ({figures})."


def write(manifest: Manifest) -> str:
    """The card in Markdown."""
    metrics, training = manifest.metrics, manifest.training
    parts = [
        f"**{metrics['verdict']}**",
        f"# {manifest.name} {manifest.version} ({manifest.stage})",
        _purpose(training),
        _data(training),
        _performance(metrics),
        _baselines(metrics),
        _bands(manifest),
        _limits(metrics, training),
        _provenance(manifest),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _purpose(training: Mapping[str, Any]) -> str:
    readings = ", ".join(f"{feature.name} ({feature.unit})" for feature in FEATURES)
    made_up = (
        "\n\n**Trained on simulated people.** The figures below hold for the simulator and say nothing about real ones."
        if training["simulated"]
        else ""
    )
    return (
        "## What it is for\n\n"
        f"Wellness monitoring and change detection: from {WINDOW_DAYS} days of home readings ({readings}) it gives the "
        f"probability of a decline in the next {HORIZON_DAYS} days, and the change from the person's own first days of "
        "the week. A marked change is a reason to consider talking to your care team, and nothing more. It is for "
        "adults who record their own readings; it names no condition and advises no action." + made_up
    )


def _data(training: Mapping[str, Any]) -> str:
    dropped = sum(training["dropped_values"].values())
    left_out = "; ".join(f"{reason}: {count}" for reason, count in training["left_out"].items()) or "none"
    parts = ", ".join(f"{name} {count}" for name, count in training["windows"].items())
    return (
        "## Data and label\n\n"
        f"- {training['patients']} people, {training['rows']} days of readings, {training['onsets']} declines\n"
        f"- A week counts as positive by {training['label_rule']}\n"
        f"- Windows: {parts}; no person is in two parts\n"
        f"- Values outside the believable range, dropped: {dropped}\n"
        f"- Windows left out: {left_out}\n"
        "- Missing days and values stay missing; the model sees that they are"
    )


def _performance(metrics: Mapping[str, Any]) -> str:
    interval = f"({metrics['auroc_low']:.3f} to {metrics['auroc_high']:.3f})"
    lines = [
        "## How good it is (people it has never seen)",
        "",
        "| | |",
        "|---|---|",
        f"| AUROC, split by people | {metrics['auroc']:.3f} {interval} |",
    ]
    if "auroc_within_patient" in metrics:
        judged = f"({metrics['within_patient_patients']} people)"
        lines.append(f"| AUROC within one person's weeks | {metrics['auroc_within_patient']:.3f} {judged} |")
    slope = f"{metrics['calibration_slope']:.2f} / {metrics['calibration_intercept']:.2f}"
    gap = metrics["row_random_gap"]
    lines += [
        f"| AUPRC (prevalence) | {metrics['auprc']:.3f} ({metrics['prevalence']:.3f}) |",
        f"| Calibration slope / intercept (ideal 1 / 0) | {slope} |",
        f"| Expected calibration error, Brier, log-loss | "
        f"{metrics['ece']:.4f}, {metrics['brier']:.4f}, {metrics['log_loss']:.4f} |",
        f"| What a split by rows would have added (gradient boosting) | {gap['gap']:+.3f} |",
    ]
    if "information_captured" in metrics:
        boosting = metrics["information_captured_by_baselines"]["hist_gradient_boosting"]
        lines += [
            f"| Information captured of all there is in the simulated world | {metrics['information_captured']:.1%} |",
            f"| The same, by gradient boosting | {boosting:.1%} |",
            f"| Soft AUROC there, and its ceiling | {metrics['soft_auroc']:.3f}, {metrics['soft_auroc_ceiling']:.3f} |",
        ]
    return "\n".join(lines)


def _baselines(metrics: Mapping[str, Any]) -> str:
    lines = [
        "## Against simple baselines",
        "",
        "| baseline | AUROC | model's lead (95 % interval) |",
        "|---|---|---|",
    ]
    for name, auroc in metrics["baselines"].items():
        gap = metrics["difference_from_baselines"][name]
        lead = f"{gap['value']:+.3f} ({gap['low']:+.3f} to {gap['high']:+.3f})"
        lines.append(f"| {name.replace('_', ' ')} | {auroc:.3f} | {lead} |")
    return "\n".join(lines)


def _bands(manifest: Manifest) -> str:
    parameters, point = manifest.parameters, manifest.metrics["operating_point"]
    return (
        "## Bands\n\n"
        f"- steady: score below {parameters['some_change_from']:.2f}\n"
        f"- some change: from {parameters['some_change_from']:.2f}\n"
        f"- marked change: from {parameters['marked_change_from']:.2f}; on unseen people that is "
        f"{point['alerts_per_100_patient_days']:.1f} per 100 person-days, of which {point['ppv']:.0%} are followed by "
        f"a decline; {point['sensitivity']:.0%} of the weeks before a decline are among them"
    )


def _limits(metrics: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    lines = [
        "## What it cannot do",
        "",
        "- It sees seven days and four readings; it knows no history, age, medicine or condition.",
        "- A score tells of association, not of cause.",
        "- Weeks during a decline, or just after one began, were not part of its training.",
        "- It has not been examined for fairness between groups: the data carry no group.",
    ]
    if training["label_source"] == "future-measurements":
        lines.append(
            "- Its label is a rule over later readings, not something a person recorded. Trust it accordingly."
        )
    if metrics["test_onset_patients"] < 30:
        lines.append(f"- Only {metrics['test_onset_patients']} people with a decline were left to judge it by.")
    return "\n".join(lines)


def _provenance(manifest: Manifest) -> str:
    training = manifest.training
    packages = ", ".join(f"{name} {version}" for name, version in training["packages"].items())
    return (
        "## Provenance\n\n"
        f"- Made {manifest.created_at} in {training['minutes']:.1f} minutes, seed {training['seed']}, code revision "
        f"{training['revision']}\n"
        f"- Training data SHA-256 `{training['data_sha256']}`\n"
        f"- {packages}\n"
        f"- ONNX and what was trained differ by at most {manifest.metrics['parity_error']:.1e}"
    )
