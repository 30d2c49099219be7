import subprocess
import sys


def test_importing_the_package_imports_neither_torch_nor_its_siblings() -> None:
    code = "import sys, rp_purify; print([m for m in ('torch', 'timm', 'rp_attacks') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_settings_and_presets_do_not_need_torch() -> None:
    code = "import sys, rp_purify; rp_purify.FinetuneSettings(), rp_purify.preset; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_every_public_name_is_there() -> None:
    import rp_purify

    for name in dir(rp_purify):
        assert getattr(rp_purify, name) is not None
    assert "MAEPure" in dir(rp_purify)
