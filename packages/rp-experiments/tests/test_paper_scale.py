"""What `reproduce.py --scale paper` resolves to, against the papers' tables, figures and appendices."""

import fnmatch
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rp_attacks.radii import pgd200_step
from rp_experiments.artifacts import in_order
from rp_experiments.papers.items import ITEMS
from rp_experiments.papers.scales import SCALES, plan_of
from rp_experiments.papers.tiers import tier_of
from rp_experiments.recipes.dra import RECIPES as RUNS
from rp_experiments.recipes.evaluation import RECIPES as EVALUATIONS
from rp_experiments.recipes.generate import RECIPES as GENERATIONS
from rp_experiments.recipes.paper_scale import COMPARISONS, FINETUNINGS
from rp_experiments.recipes.pretrain import KINDS as PRETRAININGS
from rp_experiments.recipes.table import changed
from rp_models.data import describe
from rp_models.shards import ShardPlan

SMALL = ("cifar10", "cifar100", "svhn")


@pytest.mark.parametrize("tier", [1, 2, 3])
def test_each_tier_has_products_for_its_items(tier):
    plan, wanted = plan_of("paper", tier=tier), tier_of("paper", tier).items or tuple(ITEMS)
    assert all(ITEMS[key].needed(plan) for key in wanted)


@pytest.fixture(scope="module")
def plan():
    return SCALES["paper"]()


def settings(config, *names):
    """Some values of nested settings: `budget.steps`."""
    found = []
    for name in names:
        value = config
        for part in name.split("."):
            value = getattr(value, part)
        found.append(value)
    return tuple(found)


def test_table_12_and_figure_5_have_the_attack_and_the_points_of_table_1(plan):
    table, tuned = plan.sensitivity.config, plan.comparisons["cifar10"].config
    assert (table.comparison.data, table.comparison.images) == ("cifar10", 512)
    assert {case.families for case in table.cases} == {("table-1",)}
    assert settings(table.budget_in("linf"), "steps", "eot", "step_size") == (200, 20, 0.007)
    points = {row: [case.changes for case in table.cases if case.row == row] for row in ("mae_pure", "rmaskdit_pure")}
    assert [point["steps"] for point in points["rmaskdit_pure"]] == [15, 20, 25, 30]
    usual = tuned.rows.mae_pure
    for name, value in (("steps", 150), ("step_size", 1 / 255), ("mask_rate", 0.25)):
        assert getattr(usual, name) == value
        assert {name: value} in points["mae_pure"]
    # the three are one system, which is attacked once
    assert len({table.first_like(case).name for case in table.cases}) == len(table.cases) - 2


def test_one_rule_gives_the_step_of_pgd_in_all_tables(plan):
    for data, comparison in plan.comparisons.items():
        eps = comparison.config.budget.eps
        assert comparison.config.budget.step_size == pgd200_step("linf", eps) == pytest.approx(0.007 * eps * 255 / 8)
        tables = (plan.norms[data], plan.unseen[data], plan.black_box[data], plan.before_larger.get(data))
        for table in (one.config for one in tables if one is not None):
            for norm in ("linf", "l2", "l1"):
                assert table.budget_in(norm).step_size == pgd200_step(norm, table.radius(norm))
    assert plan.classifiers.config.budget_in("l2").step_size == 0.05


def test_square_has_5000_queries_without_a_purifier(plan):
    for comparison in plan.comparisons.values():
        assert comparison.config.budget.of_suite().plain_queries == 5000
    assert all(table.config.budget.label_queries == 5000 for table in plan.black_box.values())


def test_tables_6_and_7_have_the_large_classifier_and_adbm(plan):
    for key in ("mae-pure/table-6", "mae-pure/table-7"):
        products = ITEMS[key].products(plan)
        table = next(iter(products.values())).config
        assert (table.comparison.data, table.classifiers["larger"].standard.network) == ("cifar10", "wrn-70-16-swish")
        assert {case.classifier for case in table.cases} == {"larger"}
        assert {"adbm", "diffpure", "mae_pure", "maskdit_pure", "rmae_pure", "rmaskdit_pure"} < {
            case.row for case in table.cases
        }
        assert {case.families for case in table.cases} == {("l2", "l1")}
    products = ITEMS["mae-pure/table-6"].products(plan)
    assert [name.partition(", ")[2] for name in products] == [*SMALL, "cifar10"]
    assert not products["norms, svhn"].config.classifiers  # WRN-28-10
    assert [plan.unseen["cifar10"].config.radius(norm) for norm in ("linf", "l2", "l1")] == [8 / 255, 1.0, 12.0]


def test_diffpure_diffuses_less_in_l2(plan):
    for data, table in ((data, table.config) for data, table in plan.norms.items()):
        (case,) = (case for case in table.cases if case.row == "diffpure")
        assert [table.purifier(case, norm).times for norm in ("linf", "l2", "l1")] == (
            [150] * 3 if data == "imagenet" else [100, 75, 100]
        )


def test_table_3_has_three_data_sets_and_their_dm_at(plan):
    products = ITEMS["mae-pure/table-3"].products(plan)
    assert {name for name in products if name.startswith("run")} == {f"run, {data}" for data in SMALL}
    run = products["run, svhn"].config
    assert (run.data, run.classifier.network, run.training.epochs) == ("svhn", "wrn-28-10-swish-svhn", 400)
    assert (run.training.crop_padding, run.training.flip) == (0, False)
    assert not any(run.config.data == "svhn" for run in ITEMS["dra/table-1"].products(plan).values())


def test_the_figures_are_on_the_papers_data_sets_under_autoattack(plan):
    data = {
        "mae-pure/fig-1": ["svhn"],
        "mae-pure/fig-2-8": ["imagenet"],
        "mae-pure/fig-4": ["cifar10", "cifar100", "imagenet"],
    }
    others = ("fig-6", "fig-7", "theorem-3.1", "theorem-3.2")
    data |= {f"mae-pure/{key}": ["cifar10"] for key in others}
    for key, expected in data.items():
        configs = [product.config for product in ITEMS[key].products(plan).values()]
        assert [config.data for config in configs] == expected
        assert {settings(config, "attack", "images") for config in configs} == {("autoattack", 100)}
        assert all(config.eps == (4 if config.data == "imagenet" else 8) / 255 for config in configs)
    # the figures of further data sets wait for no fine-tuning
    (needed,) = plan.views["imagenet"].needs.values()
    assert needed.config.roles == ("classifier", "mae")
    assert plan.networks["imagenet"].needs["seen"] == needed


@pytest.mark.parametrize(
    ("key", "data", "network"),
    [
        *((f"dra/{name}", "cifar10", "wrn-28-10-swish") for name in ("fig-3a", "fig-4", "fig-5", "fig-7", "table-3")),
        ("dra/fig-6", "imagenet", "vit-b16-dinov3"),
        ("dra/fig-8", "cifar100", "wrn-28-10-swish-cifar100"),
    ],
)
def test_what_dra_learns_is_looked_at_on_the_papers_networks(plan, key, data, network):
    for product in ITEMS[key].products(plan).values():
        run = RUNS[product.config.base]() if product.job == "sweep" else product.needs["run"].config
        assert (run.data, run.classifier.network) == (data, network)
        assert run.evaluation.attacks == ("apgd-ce", "apgd-t", "fab-t", "square")  # AutoAttack, as the paper judges


def test_figure_6_of_dra_ends(plan):
    (product,) = ITEMS["dra/fig-6"].products(plan).values()
    assert product.config.sections == ("sparse",)  # no attack, no diffusion model, images batch by batch
    assert product.needs["run"].config.method == ("at", "dm-at", "dm-at+dra")
    assert product.config.sae_k == (8, 16, 32)
    steps = 1_271_167 // product.config.sae_batch * product.config.sae_epochs
    assert 1_000 < steps < 10_000  # of each of 27 autoencoders
    assert "sparse" not in plan.analysis.config.sections


def test_table_3_attacks_its_published_rivals(plan):
    products = ITEMS["mae-pure/table-3"].products(plan)
    rivals = {name: product.config for name, product in products.items() if product.job == "evaluate"}
    assert set(rivals) == {
        f"{name}, {data}" for name in ("Rebuffi et al. 2021", "Pang et al. 2022") for data in SMALL[:2]
    }
    for name, config in rivals.items():
        assert config.data == name.partition(", ")[2] == config.entry.dataset
        assert settings(config, "suite", "images", "eps", "entry.threat") == ("autoattack", 512, 8 / 255, "Linf")
        assert config.entry.arguments["depth"] == 28


def test_figures_1_and_9_of_dra_are_over_robustbench(plan):
    config = ITEMS["dra/fig-1-9"].products(plan)["zoo, cifar10"].config
    assert settings(config.models, "models", "data", "threat", "edm") == (
        ("all",), "cifar10", "Linf", "edm-cifar10-32x32-cond-vp",
    )  # fmt: skip
    assert settings(config.models, "sigma", "layer") == (0.1, "bottleneck")
    assert settings(config.analysis, "images", "neighbours") == (None, 10)


def test_the_fine_tuned_encoder_meets_autoattack_beside_table_2(plan):
    products = ITEMS["dra/section-5.6-finetune"].products(plan)
    assert products["probe"].config.autoattack
    assert products["probe"].config.models.evaluation.attacks == ("apgd-ce", "apgd-t", "fab-t", "square")
    run, tuning = products["run"].config, products["probe"].config.fine_tuning
    assert settings(run, "classifier.network", "training.epochs") == ("wrn-34-10-swish", 200)
    assert (tuning.epochs, tuning.batch_size) == (200, 128)  # the setting of Table 2
    assert {"at", "at+dra"} <= set(run.method)


def test_theorem_j1_takes_the_methods_own_steps_too(plan):
    (product,) = ITEMS["mae-pure/theorem-j.1"].products(plan).values()
    assert settings(product.config, "sign_rates", "steps") == ((1 / 255,), (1, 10, 50, 150))
    usual = product.config.comparison.rows.mae_pure
    assert settings(usual, "step_size", "steps", "eta") == (1 / 255, 150, 8 / 255)


def test_appendix_c_has_an_attention_head_at_its_time_step(plan):
    config = ITEMS["dra/appendix-c"].products(plan)["probe"].config
    assert config.noisy_probe.head == "attention"
    assert settings(config, "noisy_radius", "noisy_images", "passes", "noisy_autoattack") == (1.0, 512, 20, True)
    kept = math.prod(1 - (1e-4 + i * (0.02 - 1e-4) / 999) for i in range(50))  # of the variance, t = 50 of 1000
    assert config.noisy_sigmas[1] == pytest.approx(math.sqrt((1 - kept) / kept), rel=0.01)


def test_an_autoencoder_trained_as_it_is_used_stands_beside_the_published_mask_rate(plan):
    for data, rate in (("cifar10", 0.25), ("cifar100", 0.3), ("svhn", 0.3)):
        comparison = plan.comparisons[data].config
        name = f"mae_trained_at_{rate:g}"
        row = comparison.purifier(f"mae_pure_trained_at_{rate:g}")
        assert f"mae_pure_trained_at_{rate:g}" in comparison.chosen
        assert replace(row, mae="mae") == comparison.rows.mae_pure
        assert row.mask_rate == rate
        trained = changed(comparison.pretrain_mae, {"mae": comparison.networks[name]["mae"]})
        assert (trained.mae.mask_rate, comparison.pretrain_mae.mae.mask_rate) == (rate, 0.75)
        assert name in plan.networks[data].config.roles


def test_fine_tuning_values_are_tried_first_and_the_noise_stays_in_the_ball(plan):
    assert set(plan.pilots) == {
        f"{network}, {data}" for network in ("rmae", "rmaskdit") for data in (*SMALL, "imagenet")
    }
    for product in plan.pilots.values():
        config, eps = product.config, product.config.comparison.budget.eps
        usual = getattr(config.comparison, config.tuning).finetune
        assert usual.noise_std == eps
        assert usual.mu == (3.0 if config.network == "rmae" else 1.0)
        assert {"mu": 0.0} in config.tried  # Eq. 6 as printed
        tried = [replace(usual, **values) for values in config.tried]
        assert all(values.noise_std <= eps for values in tried)
        assert {values.noise_std for values in tried} == {0.0, eps / 2, eps}
        assert usual in tried
        assert config.steps * 20 < usual.steps or config.comparison.data == "imagenet"
        networks = plan.networks[config.comparison.data]
        assert networks.needs[config.tuning] == product  # whose choice the whole training takes
        assert {"classifier", config.network.removeprefix("r")} <= set(product.needs["networks"].config.roles)
        for row in config.rows:
            assert config.trial.purifier(row).kind == config.comparison.purifier(f"{config.network}_pure").kind


def test_the_synthetic_images_of_imagenet_are_what_generate_writes():
    config = GENERATIONS["imagenet-dra"]()
    assert (config.images, config.compute.precision) == (4_000_000, "bf16")
    stem = Path(describe(config.data).name).stem
    shards = ShardPlan.of_batches(
        config.images, config.shard_images, config.batch_size, Path("imagenet-256/images"), stem
    )
    for recipe in ("imagenet-convnext-b", "imagenet-vit-b16"):
        (pattern,) = RUNS[recipe]().synthetic.paths
        assert all(fnmatch.fnmatch(str(path), pattern) for path in shards.paths)


def precisions(value, place=""):
    """Every `compute.precision` in settings, with the name of the settings that it belongs to."""
    for name in getattr(value, "__dataclass_fields__", ()):
        one = getattr(value, name)
        yield from [(place, one.precision)] if name == "compute" else precisions(one, name)


def test_every_product_and_network_of_the_scale_says_its_precision(plan):
    for product in in_order(one for item in ITEMS.values() for one in item.products(plan).values()):
        config = RUNS[product.config.base]() if product.job == "sweep" else product.config
        found = set(precisions(config))
        assert found, product.job
        unsaid = {place for place, precision in found if precision == "fp32"}
        assert unsaid <= {"pretrain_edm"}, product.job  # the default, of ImageNet's comparison, which uses none


@pytest.mark.parametrize(
    ("recipes", "own"),
    [
        (RUNS, ("cifar", "svhn", "imagenet")),
        (GENERATIONS, ("cifar", "svhn", "imagenet", "maskdit", "lightningdit")),
        (EVALUATIONS, ("cifar", "svhn", "imagenet")),
        (COMPARISONS, ("cifar", "svhn", "imagenet")),
        (FINETUNINGS, ("cifar", "svhn", "imagenet")),
        *((kind.recipes, ("cifar", "svhn", "imagenet")) for kind in PRETRAININGS.values()),
    ],
    ids=lambda value: "",
)
def test_every_recipe_for_the_papers_data_says_its_precision(recipes, own):
    chosen = [name for name in recipes if name.startswith(own)]
    assert chosen
    assert {
        name: recipes[name]().compute.precision for name in chosen if recipes[name]().compute.precision == "fp32"
    } == {}
