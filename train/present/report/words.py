"""The sections in words: what is checked, and how every number is made again."""

from collections.abc import Mapping
from typing import Any

from train.present.results import Results
from train.present.tables.accuracy import defense_title


def believed(results: Results) -> dict[str, Any]:
    """What the checks look for, and what they found where they were run."""
    found = []
    for path in sorted(results.folder.glob("*.json")):
        record = results.record(path.name)
        for name, findings in dict(record.get("soundness") or {}).items():
            for i, finding in enumerate(findings):
                if finding["tripped"]:
                    at = f"{path.name}#/soundness/{name}/{i}"
                    found.append(
                        {
                            "file": path.name,
                            "defense": defense_title(name),
                            "check": finding["check"],
                            "sentence": results.show(f"{at}/sentence", "text"),
                        }
                    )
    return {"checks": CHECKS, "found": found}


# Names as `attacks.soundness` has them; a test compares.
CHECKS: Mapping[str, str] = {
    "finite": "Is every logit a finite number? Attacks cannot compare answers that are "
    "not, so the classifier looks broken instead of robust.",
    "random": "Does the same image get the same answer twice? If not, one answer says "
    "little: gradients have to be averaged, and verdicts repeated.",
    "batch": "Does an image get the same logits whatever the other images of its batch "
    "are? If not, an accuracy depends on how the images were put together.",
    "probabilities": "Are these logits, or probabilities already? A second softmax has "
    "hardly any slope where the classifier is sure.",
    "classes": "Are there classes enough for the losses that compare several of them?",
    "zero gradient": "Is the gradient exactly zero at an image or near it? There an "
    "attack by gradients does not move, and measures nothing.",
    "finite gradient": "Does the gradient hold a NaN or an infinity?",
    "saturation": "Is the loss flat because the softmax rounds, where the margin "
    "between the classes still has a slope?",
    "ascent": "Does a small step along the gradient raise the loss more often than a "
    "step in a random direction? If not, the gradient says nothing.",
    "ball": "Are the attacked images inside the ball and inside the range of pixels?",
    "given up": "Did the attack stop on some images for another reason than that it "
    "had broken them or spent its budget? That says nothing of the classifier.",
    "epsilons": "Does a larger ball leave less accuracy? Whatever is found in a small "
    "one is in the larger one too.",
    "unbounded": "Does an attack that may change everything leave no more than "
    "guessing? Any classifier that looks at its input can be fooled then.",
    "steps": "Do more steps leave less accuracy, or at least no more?",
    "black box": "Does an attack without gradients leave less than those with them? "
    "Then the gradients are masked.",
}


def rerun(results: Results) -> dict[str, Any]:
    """For every result file the command that made it."""
    files = []
    for path in sorted(results.folder.glob("**/*.json")):
        name = path.relative_to(results.folder).as_posix()
        record = results.record(name)
        parts = [""] if "provenance" in record else [f"/{one}" for one in record]
        for part in parts:
            at = f"{name}#{part}/provenance"
            facts = (record[part[1:]] if part else record).get("provenance")
            if not facts:
                continue
            files.append(
                {
                    "file": name,
                    "part": part[1:],
                    "command": results.show(f"{at}/command", "text"),
                    "facts": [
                        results.show(f"{at}/{fact}", "text")
                        for fact in ("date", "hardware")
                    ],
                    "commit": facts.get("commit")
                    and results.show(f"{at}/commit", "text"),
                    "jax": results.show(f"{at}/versions/jax", "text"),
                }
            )
    return {"files": files}
