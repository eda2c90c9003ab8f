"""Who holds what: every scheme, on sets that can be counted by hand."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedvision.data.draw import draw
from fedvision.data.partition import SERVER, TEST, TRAIN, VALIDATION, Partition
from fedvision.data.schemes import PARTITIONS, units_of
from fedvision.errors import ConfigError, DataError
from fedvision.experiment import Experiment
from fedvision.schema import leaves

KNOWN_SITES = [2, -1, 2, 1, 2, -1, 0, -1, 2, 2, 0, 1]
KNOWN_PARTS = [0, 1, 0, 0, 0, 2, 2, 2, 2, 0, 0, 2]
TEN_EACH = [k for k in range(10) for _ in range(100)]
SERVER_SHARES = {"validation": 0.1, "test": 0.2}


def label_counts(partition, labels):
    """[sites, classes], without the server."""
    return partition.counts(np.array(labels), max(labels) + 1)[:-1].sum(1)


def test_the_registry_holds_exactly_the_schemes_that_a_config_may_name():
    assert set(PARTITIONS) == {"iid", "dirichlet", "shards", "natural", "brought"}
    assert {"partition.sites", "partition.alpha", "partition.column"} <= set(leaves(Experiment))


def test_iid_gives_every_site_the_same_number_of_images_or_one_more(toy, experiment):
    partition = draw(toy([0] * 11), experiment({"scheme": "iid", "sites": 3}))
    assert sorted(np.bincount(partition.site_of)) == [3, 4, 4]


def test_dirichlet_with_a_large_alpha_is_nearly_even(toy, experiment):
    partition = draw(toy(TEN_EACH), experiment({"scheme": "dirichlet", "sites": 5, "alpha": 1e4}))
    assert np.abs(label_counts(partition, TEN_EACH) - 20).max() <= 2


def test_dirichlet_with_a_small_alpha_gives_most_of_each_class_to_one_site(toy, experiment):
    partition = draw(toy(TEN_EACH), experiment({"scheme": "dirichlet", "sites": 5, "alpha": 0.01}))
    assert label_counts(partition, TEN_EACH).max(0).mean() > 90


def test_dirichlet_shares_of_a_class_have_the_variance_of_the_distribution(toy, experiment):
    """Var q = (1/S)(1 - 1/S) / (Sα + 1) = 0.25 / 3 at S = 2, α = 1; 400 classes estimate it within about 15 %."""
    labels = [k for k in range(400) for _ in range(50)]
    partition = draw(toy(labels), experiment({"scheme": "dirichlet", "sites": 2, "alpha": 1.0}))
    shares = label_counts(partition, labels)[0] / 50
    assert shares.var() == pytest.approx(0.25 / 3, rel=0.15)


def test_shards_of_whole_classes_give_each_site_at_most_its_number_of_shards_in_labels(toy, experiment):
    partition = draw(toy(TEN_EACH), experiment({"scheme": "shards", "sites": 10, "shards_per_site": 2}))
    held = label_counts(partition, TEN_EACH)
    assert (held.sum(1) == 100).all()
    assert ((held > 0).sum(1) <= 2).all()


def test_a_shard_across_the_border_of_two_labels_adds_one_label(toy, experiment):
    labels = [0] * 10 + [1] * 20  # three shards of 10: 0, 1, 1
    partition = draw(toy(labels), experiment({"scheme": "shards", "sites": 4, "shards_per_site": 1}))
    held = label_counts(partition, labels)  # four shards of 7 or 8: the second crosses from 0 to 1
    assert sorted((held > 0).sum(1)) == [1, 1, 1, 2]


def test_more_shards_than_images_are_refused(toy, experiment):
    with pytest.raises(ConfigError, match=r"shards_per_site = 3 makes 12 shards, and there are 10 images"):
        draw(toy([0] * 10), experiment({"scheme": "shards", "sites": 4, "shards_per_site": 3}))


@pytest.mark.parametrize("scheme", [{"scheme": "iid"}, {"scheme": "dirichlet", "alpha": 1e4}, {"scheme": "shards"}])
def test_lognormal_sizes_have_the_spread_that_was_asked_for(toy, experiment, scheme):
    section = {**scheme, "sites": 60, "sizes": "lognormal", "sizes_sigma": 1.0, "min_examples": 1}
    labels = [k for k in range(2) for _ in range(15_000)]
    sizes = np.bincount(draw(toy(labels), experiment(section)).site_of)
    assert np.log(sizes).std() == pytest.approx(1.0, rel=0.25)


def test_natural_sites_are_the_values_of_the_column_in_counting_order(toy, experiment):
    dataset = toy([0] * 6, ward=["10", "9", "9", "10", "9", "10"])
    partition = draw(dataset, experiment({"scheme": "natural", "column": "ward"}))
    assert partition.sites == ("9", "10")
    assert partition.site_of.tolist() == [1, 0, 0, 1, 0, 1]


def test_natural_values_are_dealt_whole_to_fewer_sites(toy, experiment):
    wards = [f"w{n // 5}" for n in range(60)]
    dataset = toy([0] * 60, ward=wards)
    partition = draw(dataset, experiment({"scheme": "natural", "column": "ward", "sites": 4}))
    sites_of_ward = {ward: set(partition.site_of[np.array(wards) == ward]) for ward in wards}
    assert all(len(sites) == 1 for sites in sites_of_ward.values())
    assert np.bincount(partition.site_of).tolist() == [15] * 4


def test_a_natural_site_keeps_a_name_that_is_safe_as_a_file(toy, experiment):
    dataset = toy([0] * 4, ward=["../up", "../up", "Süd", "Süd"])
    sites = draw(dataset, experiment({"scheme": "natural", "column": "ward"})).sites
    assert [site[:-7] for site in sites] == ["up", "Sud"]
    assert all("/" not in site and site.isascii() for site in sites)


def test_an_unknown_column_is_refused_with_the_nearest_one(toy, experiment):
    with pytest.raises(ConfigError, match=r"partition.column = 'wards'.*did you mean ward\?.*its columns are ward"):
        draw(toy([0, 0], ward=["a", "b"]), experiment({"scheme": "natural", "column": "wards"}))


def test_a_data_set_without_columns_says_what_to_use_instead(toy, experiment):
    with pytest.raises(ConfigError, match="it has no columns; use iid, dirichlet or shards"):
        draw(toy([0, 0]), experiment({"scheme": "natural", "column": "site"}))


def test_an_empty_value_of_the_natural_column_is_refused(toy, experiment):
    with pytest.raises(DataError, match="column ward is empty for 1 images"):
        draw(toy([0] * 3, ward=["a", "a", ""]), experiment({"scheme": "natural", "column": "ward"}))


def test_natural_sites_cannot_be_given_sizes(toy, experiment):
    section = {"scheme": "natural", "column": "ward", "sizes": "lognormal"}
    with pytest.raises(ConfigError, match=r"partition.sizes = lognormal and partition.sites = null exclude each other"):
        draw(toy([0] * 4, ward=["a", "a", "b", "b"]), experiment(section))


def test_a_natural_site_that_is_too_small_is_named(toy, experiment):
    dataset = toy([0] * 3, ward=["a", "a", "lonely"])
    with pytest.raises(ConfigError, match=r"ward 'lonely' has 1 image.*min_examples = 2"):
        draw(dataset, experiment({"scheme": "natural", "column": "ward"}))


def test_sites_that_come_out_short_are_given_images_of_the_largest_and_it_is_said(toy, experiment):
    section = {"scheme": "dirichlet", "sites": 50, "alpha": 0.05, "min_examples": 3}
    partition = draw(toy(TEN_EACH), experiment(section))
    sizes = np.bincount(partition.site_of, minlength=50)
    assert sizes.min() == 3
    assert sizes.sum() == 1000
    assert "of 50 sites came out with fewer than partition.min_examples = 3" in partition.notes[0]


def test_more_sites_than_images_can_fill_are_refused_with_the_most_that_can_be(toy, experiment):
    with pytest.raises(ConfigError, match=r"sites = 6 with partition.min_examples = 2.*use at most 5 sites"):
        draw(toy([0] * 10), experiment({"scheme": "iid", "sites": 6}))


def test_more_sites_than_values_of_a_column_are_refused(toy, experiment):
    dataset = toy([0] * 4, site=["x", "x", "y", "y"])
    with pytest.raises(ConfigError, match=r"sites = 3: 2 values of site are left for the sites; use at most 2 sites"):
        draw(dataset, experiment({"scheme": "natural", "sites": 3}))


def test_more_sites_than_subjects_are_refused(toy, experiment):
    dataset = toy([0] * 6, subjects=["a", "a", "b", "b", "c", "c"])
    with pytest.raises(ConfigError, match=r"sites = 4: 3 subjects are left.*never at two sites; use at most 3"):
        draw(dataset, experiment({"scheme": "iid", "sites": 4, "min_examples": 1}))


def test_subjects_too_large_to_fill_every_site_are_an_error_and_not_an_endless_search(toy, experiment):
    dataset = toy([0] * 12, subjects=["big"] * 10 + ["small", "tiny"])
    with pytest.raises(ConfigError, match=r"the 12 images of 3 subjects .* cannot be dealt so"):
        draw(dataset, experiment({"scheme": "iid", "sites": 3, "min_examples": 2}))


def test_a_subject_counts_under_the_label_that_it_is_richest_in():
    """Label 0 is common: a subject with three of the eleven 0 and two of the two 1 counts under 1."""
    subject = np.array([0] * 4 + [1] * 4 + [2] * 5)
    labels = np.array([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1])
    units = units_of(subject, labels, 2, "subjects")
    assert units.images.tolist() == [4, 4, 5]
    assert units.label.tolist() == [0, 0, 1]


# ------------------------------------------------------------------------------------------------ what the server keeps


def test_the_server_takes_its_shares_of_the_subjects_first(toy, experiment):
    subjects = [f"p{n // 3}" for n in range(60)]  # 20 subjects of 3 images
    partition = draw(toy([0] * 60, subjects=subjects), experiment({"scheme": "iid", "sites": 2}, SERVER_SHARES))
    assert len(partition.rows(SERVER, TEST)) == 4 * 3
    assert len(partition.rows(SERVER, VALIDATION)) == 2 * 3
    assert len(partition.rows(SERVER, TRAIN)) == 0


def test_no_subject_of_the_server_is_at_a_site(toy, experiment):
    subjects = np.array([f"p{n % 7}" for n in range(70)])
    partition = draw(toy([0] * 70, subjects=subjects), experiment({"scheme": "iid", "sites": 2}, SERVER_SHARES))
    of_server = set(subjects[partition.site_of == SERVER])
    assert of_server
    assert not of_server & set(subjects[partition.site_of >= 0])


def test_where_the_sites_are_the_subjects_the_server_holds_out_whole_sites(toy, experiment):
    modules = [f"m{n // 4}" for n in range(40)]
    dataset = toy([0] * 40, subjects=modules)
    partition = draw(dataset, experiment({"scheme": "natural", "column": "subject"}, {"test": 0.2, "validation": 0.0}))
    held_out = set(np.array(modules)[partition.site_of == SERVER])
    assert len(held_out) == 2
    assert set(partition.sites) == set(modules) - held_out
    assert any("2 values of the column subject are held out whole" in note for note in partition.notes)


def test_a_server_that_leaves_nothing_to_the_sites_is_refused(toy, experiment):
    dataset = toy([0] * 4, subjects=["a", "a", "b", "b"])
    with pytest.raises(ConfigError, match="of 2 subjects leave nobody for the sites"):
        draw(dataset, experiment({"scheme": "iid", "sites": 1}, {"test": 0.4, "validation": 0.4}))


# ------------------------------------------------------------------------------------ train, validation, test of a site


def test_inside_a_site_shares_are_shares_of_subjects(toy, experiment):
    subjects = [f"p{n // 2}" for n in range(40)]
    made = experiment({"scheme": "iid", "sites": 2}, validation=0.1, test=0.3)
    partition = draw(toy([0] * 40, subjects=subjects), made)
    who = np.array(subjects)
    for site in (0, 1):
        parts = [set(who[partition.rows(site, part)]) for part in (TRAIN, VALIDATION, TEST)]
        assert [len(part) for part in parts] == [6, 1, 3]
        assert len(set.union(*parts)) == 10


def test_a_site_that_is_one_subject_is_split_by_image_and_says_so(toy, experiment):
    dataset = toy([0] * 20, subjects=["a"] * 10 + ["b"] * 10)
    partition = draw(dataset, experiment({"scheme": "natural", "column": "subject"}))
    assert [len(partition.rows(0, part)) for part in (TRAIN, VALIDATION, TEST)] == [8, 0, 2]
    assert any("every site is split so" in note for note in partition.notes)


def test_a_site_of_two_images_trains_on_one_and_tests_on_one(toy, experiment):
    partition = draw(toy([0, 0]), experiment({"scheme": "iid", "sites": 1}, validation=0.1, test=0.1))
    assert [len(partition.rows(0, part)) for part in (TRAIN, VALIDATION, TEST)] == [1, 0, 1]


def test_a_site_of_one_image_trains_on_it(toy, experiment):
    partition = draw(toy([0, 0]), experiment({"scheme": "iid", "sites": 2, "min_examples": 1}, test=0.5))
    assert partition.part_of.tolist() == [TRAIN, TRAIN]


def test_without_a_test_share_nothing_is_kept_for_testing(toy, experiment):
    partition = draw(toy([0] * 10), experiment({"scheme": "iid", "sites": 2}, test=0.0))
    assert (partition.part_of == TRAIN).all()


def test_a_subject_at_two_natural_sites_is_noted(toy, experiment):
    dataset = toy([0] * 4, subjects=["a", "a", "b", "a"], site=["x", "x", "y", "y"])
    partition = draw(dataset, experiment({"scheme": "natural", "column": "site"}))
    assert "1 of 2 subjects are at more than one site, because the column site says so" in partition.notes


# ---------------------------------------------------------------------------------------------- drawn, saved and loaded


def test_the_same_seed_draws_the_same_partition_and_another_seed_another(toy, experiment):
    section = {"scheme": "dirichlet", "sites": 5, "sizes": "lognormal", "camera": {"noise": 0.1}}
    one, again = (draw(toy(TEN_EACH), experiment(section, SERVER_SHARES, seed=3)) for _ in range(2))
    other = draw(toy(TEN_EACH), experiment(section, SERVER_SHARES, seed=4))
    assert np.array_equal(one.site_of, again.site_of) and np.array_equal(one.part_of, again.part_of)
    assert np.array_equal(one.cameras, again.cameras)
    assert not np.array_equal(one.site_of, other.site_of) and not np.array_equal(one.cameras, other.cameras)


def test_a_known_seed_draws_a_known_partition(toy, experiment):
    """Written down once: a change here breaks the repetition of every earlier run."""
    partition = draw(toy([0, 1] * 6), experiment({"scheme": "dirichlet", "sites": 3, "alpha": 1.0}, SERVER_SHARES))
    assert partition.site_of.tolist() == KNOWN_SITES
    assert partition.part_of.tolist() == KNOWN_PARTS


def test_a_partition_comes_back_from_disk_as_it_was(toy, experiment, tmp_path):
    section = {"scheme": "dirichlet", "sites": 50, "alpha": 0.05, "camera": {"gamma": 1.0}}
    saved = draw(toy(TEN_EACH), experiment(section, SERVER_SHARES, seed=2**62))
    saved.save(tmp_path / "partition.npz")
    loaded = Partition.load(tmp_path / "partition.npz", saved.fingerprint)
    assert np.array_equal(saved.site_of, loaded.site_of) and np.array_equal(saved.part_of, loaded.part_of)
    assert np.array_equal(saved.cameras, loaded.cameras)
    assert (saved.sites, saved.seed, saved.notes) == (loaded.sites, loaded.seed, loaded.notes)


def test_a_partition_of_another_data_set_is_refused_with_both_fingerprints(toy, experiment, tmp_path):
    saved = draw(toy([0, 0, 1, 1]), experiment({"scheme": "iid", "sites": 2}))
    saved.save(tmp_path / "partition.npz")
    other = toy([0, 1, 0, 1]).fingerprint()
    with pytest.raises(DataError, match=rf"{saved.fingerprint}.*{other}"):
        Partition.load(tmp_path / "partition.npz", other)


def test_a_file_that_is_no_partition_is_refused(tmp_path):
    path = Path(tmp_path / "partition.npz")
    with pytest.raises(DataError, match="there is no partition"):
        Partition.load(path)
    for content in (b"", b"not a zip", b"PK\x03\x04" + b"\0" * 60):
        path.write_bytes(content)
        with pytest.raises(DataError, match="is not a partition that fedvision saved"):
            Partition.load(path)


def test_the_fingerprint_tells_images_labels_and_subjects_apart(toy):
    plain = toy([0, 0, 1, 1])
    turned = toy([0, 0, 1, 1])
    turned.images[0, 0, 0, 0] += 1
    others = [turned, toy([0, 1, 0, 1]), toy([0, 0, 1, 1], subjects=["a", "b", "c", "d"])]
    assert plain.fingerprint() == toy([0, 0, 1, 1]).fingerprint()
    assert len({plain.fingerprint(), *(other.fingerprint() for other in others)}) == 4


def test_the_summary_counts_every_image_once(toy, experiment):
    import json

    labels = [0, 1] * 20
    section = {"scheme": "iid", "sites": 4, "camera": {"gamma": 0.5}}
    partition = draw(toy(labels), experiment(section, SERVER_SHARES))
    summary = json.loads(json.dumps(partition.summary(np.array(labels), ("a", "b"), most=3)))
    everyone = partition.summary(np.array(labels), ("a", "b"))
    assert np.sum([site["counts"] for site in everyone["site"]]) + np.sum(everyone["server"]) == 40
    assert (len(summary["site"]), summary["left_out"]) == (3, 1)
    assert 2**-0.5 <= summary["site"][0]["camera"]["gamma"] <= 2**0.5


SCHEMES = st.one_of(
    st.fixed_dictionaries({"scheme": st.just("iid")}),
    st.fixed_dictionaries({"scheme": st.just("dirichlet"), "alpha": st.floats(1e-3, 1e3)}),
    st.fixed_dictionaries({"scheme": st.just("shards"), "shards_per_site": st.integers(1, 3)}),
    st.fixed_dictionaries({"scheme": st.just("natural"), "column": st.just("ward")}),
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_the_labels_subjects_and_scheme_nobody_is_lost_doubled_or_split(toy, experiment, data):
    labels = data.draw(st.lists(st.integers(0, 4), min_size=12, max_size=80))
    subjects = data.draw(st.none() | st.lists(st.integers(0, 30), min_size=len(labels), max_size=len(labels)))
    wards = [str(n % 6) for n in (subjects or range(len(labels)))]
    named = None if subjects is None else [f"p{n}" for n in subjects]
    sites, least = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))
    sizes = data.draw(st.sampled_from(["equal", "lognormal"]))
    section = {**data.draw(SCHEMES), "sites": sites, "min_examples": least, "sizes": sizes}
    server = data.draw(st.none() | st.just(SERVER_SHARES))
    made = experiment(section, server, data.draw(st.integers(0, 99)), validation=data.draw(st.sampled_from([0.0, 0.2])))
    try:
        partition = draw(toy(labels, subjects=named, ward=wards), made)
    except ConfigError as error:
        assert "partition." in str(error) or "evaluation.server" in str(error)
        return
    assert ((partition.site_of >= SERVER) & (partition.site_of < sites)).all()
    held = partition.counts(np.array(labels), max(labels) + 1).sum(2)
    assert held.sum() == len(labels)
    assert (held[:-1].sum(1) >= least).all() and (held[:-1, TRAIN] >= 1).all()
    assert (held[:-1, TEST][held[:-1].sum(1) >= 2] >= 1).all()
    for subject in set(subjects or []):
        assert len(set(partition.site_of[np.array(subjects) == subject])) == 1
