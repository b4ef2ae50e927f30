"""The deterioration model's card: what it is for, what it was made from, how good it is, and what it cannot do.

The verdict against the simple baselines comes first, whichever way it went. Then the sections of TRIPOD+AI (Collins et
al. 2024) in its order, then the source attributes of ONC's HTI-1 rule. Wording is that of a general-wellness product.
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
    """The card in Markdown. It names no version or time, so that the same training writes the same card."""
    metrics, training = manifest.metrics, manifest.training
    parts = [
        f"**{metrics['verdict']}**",
        f"# {manifest.name} ({manifest.stage})",
        _abstract(metrics, training),
        _introduction(training),
        _methods(manifest),
        _open_science(training),
        _results(manifest),
        _discussion(metrics, training),
        _source_attributes(training["source_attributes"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _abstract(metrics: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    return (
        "## Abstract\n\n"
        f"Predicts from {WINDOW_DAYS} days of home readings whether a decline begins within {HORIZON_DAYS} days. "
        f"Learnt and judged on {training['patients']} people with {training['onsets']} declines; people it has never "
        f"seen: AUROC {metrics['auroc']:.3f} ({metrics['auroc_low']:.3f} to {metrics['auroc_high']:.3f}), calibration "
        f"slope {metrics['calibration_slope']:.2f}."
    )


def _introduction(training: Mapping[str, Any]) -> str:
    made_up = (
        "\n\n**Trained on simulated people.** The figures below hold for the simulator and say nothing about real ones."
        if training["simulated"]
        else ""
    )
    return (
        "## Introduction\n\n"
        "**Background and purpose.** Wellness monitoring and change detection. A marked change is a reason to consider "
        "talking to your care team, and nothing more. It is for adults who record their own readings; it names no "
        "condition and advises no action.\n\n"
        "**Objectives.** Develop and internally validate a prediction model; nothing here is an external validation."
        + made_up
    )


def _methods(manifest: Manifest) -> str:
    training, metrics = manifest.training, manifest.metrics
    readings = ", ".join(f"{feature.name} ({feature.unit})" for feature in FEATURES)
    dropped = sum(training["dropped_values"].values())
    left_out = "; ".join(f"{reason}: {count}" for reason, count in training["left_out"].items()) or "none"
    parts = ", ".join(f"{name} {count}" for name, count in training["windows"].items())
    return (
        "## Methods\n\n"
        f"- **Data**: {training['patients']} people, {training['rows']} days of readings, {training['onsets']} "
        "declines\n"
        f"- **Participants**: weeks left out: {left_out}\n"
        f"- **Data preparation**: values outside the believable range, dropped: {dropped}\n"
        f"- **Outcome**: a week counts as positive by {training['label_rule']}\n"
        f"- **Predictors**: {readings}, and each reading's distance from the person's own mean of the week\n"
        f"- **Sample size**: windows: {parts}; no person is in two parts\n"
        "- **Missing data**: missing days and values stay missing; the model sees that they are\n"
        f"- **Analytical methods**: {_method(manifest)}\n"
        "- **Class imbalance**: classes are not weighted, so probabilities are not distorted\n"
        "- **Fairness**: figures by completeness and by usual severity below; the data carry no demographic group\n"
        f"- **Model output**: a probability and a band; some change from {manifest.parameters['some_change_from']:.2f}"
        f", marked change from {manifest.parameters['marked_change_from']:.2f}\n"
        f"- **Training against evaluation**: {metrics['test_patients']} people were kept for evaluation alone; "
        "intervals draw whole people"
    )


def _method(manifest: Manifest) -> str:
    if "members" in manifest.training["config"]:
        return "an ensemble of small LSTMs, weights averaged over the last half of the walk, calibrated (Platt)"
    return "penalised logistic regression with a mask of what is missing"


def _open_science(training: Mapping[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in training["packages"].items())
    return (
        "## Open science\n\n"
        f"- Code revision {training['revision']}, SHA-256 of the code `{training['code_sha256']}`, seed "
        f"{training['seed']}\n"
        f"- Training data SHA-256 `{training['data_sha256']}`; they stay where they are\n"
        f"- {packages}\n"
        "- The same data, seed, code and machine give a model of the same digest"
    )


def _results(manifest: Manifest) -> str:
    metrics = manifest.metrics
    return "\n\n".join(
        ("## Results (people it has never seen)", _performance(metrics), _baselines(metrics), _groups(metrics))
    )


def _performance(metrics: Mapping[str, Any]) -> str:
    interval = f"({metrics['auroc_low']:.3f} to {metrics['auroc_high']:.3f})"
    point, gap = metrics["operating_point"], metrics["row_random_gap"]
    lines = ["| | |", "|---|---|", f"| AUROC, split by people | {metrics['auroc']:.3f} {interval} |"]
    if "auroc_within_patient" in metrics:
        low, high = metrics["auroc_within_patient_low"], metrics["auroc_within_patient_high"]
        judged = f"({low:.3f} to {high:.3f}; {metrics['within_patient_patients']} people)"
        lines.append(f"| AUROC within one person's weeks | {metrics['auroc_within_patient']:.3f} {judged} |")
    if "later_weeks" in metrics:
        later = metrics["later_weeks"]
        told = f"{later['auroc']:.3f} ({later['auroc_low']:.3f} to {later['auroc_high']:.3f})"
        lines.append(f"| AUROC in later weeks, learnt from earlier ones of the same people | {told} |")
    slope = (
        f"{metrics['calibration_slope']:.2f} ({metrics['calibration_slope_low']:.2f} to "
        f"{metrics['calibration_slope_high']:.2f}) / {metrics['calibration_intercept']:.2f}"
    )
    lines += [
        f"| What a split by rows would have added (gradient boosting) | {gap['gap']:+.3f} |",
        f"| AUPRC (prevalence) | {metrics['auprc']:.3f} ({metrics['prevalence']:.3f}) |",
        f"| Calibration slope / intercept (ideal 1 / 0) | {slope} |",
        f"| Expected calibration error, Brier, log-loss | "
        f"{metrics['ece']:.4f}, {metrics['brier']:.4f}, {metrics['log_loss']:.4f} |",
        f"| Marked changes per 100 person-days | {point['alerts_per_100_patient_days']:.1f} |",
        f"| Of these, followed by a decline | {point['ppv']:.0%} |",
        f"| Declines with a marked change before them; median lead | {point['declines_with_a_mark']:.0%}; "
        f"{point['median_lead_days']:.0f} days |",
        f"| Net benefit there (marking everybody) | {point['net_benefit']:.4f} "
        f"({point['net_benefit_of_marking_everybody']:.4f}) |",
        f"| ONNX and what was trained differ by at most | {metrics['parity_error']:.1e} |",
    ]
    if "information_captured" in metrics:
        boosting = metrics["information_captured_by_baselines"]["hist_gradient_boosting"]
        low, high = metrics["information_captured_low"], metrics["information_captured_high"]
        lines += [
            f"| Information captured of all there is in the simulated world | {metrics['information_captured']:.1%} "
            f"({low:.1%} to {high:.1%}) |",
            f"| The same, by gradient boosting | {boosting:.1%} |",
            f"| Soft AUROC there, and its ceiling | {metrics['soft_auroc']:.3f}, {metrics['soft_auroc_ceiling']:.3f} |",
        ]
    return "\n".join(lines)


def _baselines(metrics: Mapping[str, Any]) -> str:
    lines = ["| baseline | AUROC | model's lead (95 % interval) |", "|---|---|---|"]
    for name, auroc in metrics["baselines"].items():
        gap = metrics["difference_from_baselines"][name]
        lead = f"{gap['value']:+.3f} ({gap['low']:+.3f} to {gap['high']:+.3f})"
        lines.append(f"| {name.replace('_', ' ')} | {auroc:.3f} | {lead} |")
    return "\n".join(lines)


def _groups(metrics: Mapping[str, Any]) -> str:
    lines = ["| group | weeks | before a decline | AUROC | observed / expected |", "|---|---|---|---|---|"]
    for group in metrics["subgroups"]:
        told = "too few | |"
        if "auroc" in group:
            interval = f"({group['auroc_low']:.3f} to {group['auroc_high']:.3f})"
            told = f"{group['auroc']:.3f} {interval} | {group['observed_over_expected']:.2f} |"
        lines.append(f"| {group['group']} | {group['windows']} | {group['positives']} | {told}")
    curve = ", ".join(f"{point['people']} people {point['auroc']:.3f}" for point in metrics["learning_curve"])
    return "\n".join(lines) + f"\n\nLearning curve (AUROC on the same test people): {curve}."


def _discussion(metrics: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    lines = [
        "## Discussion",
        "",
        "**Interpretation.** A score tells of association, not of cause.",
        "",
        "**Limitations.**",
        "",
        "- It sees seven days and four readings; it knows no history, age, medicine or condition.",
        "- Weeks during a decline, or just after one began, were not part of its training.",
        "- It has not been examined for fairness between demographic groups: the data carry none.",
    ]
    if training["label_source"] == "future-measurements":
        lines.append(
            "- Its label is a rule over later readings, not something a person recorded. Trust it accordingly."
        )
    if metrics["test_onset_patients"] < 30:
        lines.append(f"- Only {metrics['test_onset_patients']} people with a decline were left to judge it by.")
    lines += ["", "**Usability.** Readings entered as they are; no more than 7 days; what is missing stays missing."]
    return "\n".join(lines)


def _source_attributes(groups: Mapping[str, Mapping[str, str]]) -> str:
    rows = "\n".join(
        f"| {group} | {name} | {said.replace('|', '/')} |"
        for group, told in groups.items()
        for name, said in told.items()
    )
    return f"## Source attributes (HTI-1)\n\n| | | |\n|---|---|---|\n{rows}"
