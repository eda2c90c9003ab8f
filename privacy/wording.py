"""What a promise says, and what it does not, in words that a privacy officer can act on."""

from fedvision.experiment import Experiment
from fedvision.protections import Central, DpSgd
from privacy.plan import Plan

NOUN = {"example": "image", "subject": "subject", "site": "site"}
UNIT = {
    "example": "image held at a site",
    "subject": "subject (a person, a thing) whose images a site holds",
    "site": "site with all that it holds",
}
AGAINST = {
    "dp_sgd": "everyone outside the site that holds it (the coordinator and the other sites among them)",
    "central": "everyone but the coordinator and the site itself",
    "local": "everyone outside the site (the coordinator among them)",
}


def uncovered(experiment: Experiment, plan: Plan) -> list[str]:
    """What the promise does not cover, one sentence or two each."""
    p, unit = experiment.privacy, plan.guarantee.unit
    assert p is not None
    said = ["What is true of many: the model is there to learn it, and it may be unwelcome to someone who was never in the data."]
    if unit == "example":
        said.append(
            "A person with several images: the promise is for one image, and weakens with each further one. privacy.unit = subject promises for all "
            "images of one."
        )
    if unit in ("example", "subject"):
        said.append(
            f"The same {NOUN[unit]} held at several sites: each site spends by itself, and the figures add up"
            + (f" (over {plan.sites_per_unit} sites: {plan.over_sites})." if plan.sites_per_unit > 1 else "; state privacy.sites_per_unit to see by how much.")
        )  # fmt: skip
    if plan.mechanism == "dp_sgd":
        said.append(
            "The site itself: its staff, its machines and its copies of the images. The promise begins where something leaves the site."
        )
    if plan.mechanism == "central":
        said.append("The coordinator, who sees each site's update before the noise" + (" and knows whom it drew: what it keeps until the run is over, outside the run's folder, must stay with it." if plan.a_round.sampling_rate < 1 else ", but for secure aggregation, which shows it the sum alone." if experiment.secure_aggregation.enabled else "."))  # fmt: skip
    said += [
        "Other runs on the same data: each spends anew. A site's own account adds them up and declines what is over its limits; a run's folder "
        "shows this run alone.",
        "What was chosen by looking at private data: settings, cleaning, labels, whom to include. Nothing of that was noised or counted.",
        "What else is published: reports, examples, error analyses, or a model trained further without noise.",
        f"δ = {plan.guarantee.delta:g}: with at most this chance nothing is promised. It should be well below one over the number of {NOUN[unit]}s.",
        "Who watches the network and sees which sites were at work: the promise rests on a draw that stays secret, and the record tells nothing of it."
        if plan.mechanism == "central" and plan.a_round.sampling_rate < 1
        else "That a site took part, when, and how long it took: who answered in which round is in the record, and timing is not hidden.",
        "Wrong or malicious data, and a site's own program if it is not this one: the promise is about what this program releases.",
    ]
    if isinstance(p, DpSgd | Central) and p.audit is not None:
        said.append(
            "The audit's silence: it finds too little noise, too much sampling and clipping that does not hold, and not every fault: noise that repeats from "
            "step to step has the right size and is not seen."
        )
    return said
