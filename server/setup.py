"""Compiles the native encoder into the package, where there is a C++ compiler; pyproject.toml says everything else."""
import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).resolve().parent / "native"))  # a build does not have its own folder there

from variants import VARIANTS, compile_all, library_name  # noqa: E402

PACKAGE = "bert_serving.server.engine.native"


class BuildNative(build_ext):
    """Libraries for ctypes: no Python ABI in their names, and each may be missing."""

    def get_ext_filename(self, fullname):
        return str(Path(*fullname.split(".")).with_suffix(".so"))

    def build_extensions(self):
        # Kept from one build to the next, so that what did not change is not compiled again.
        folder = Path(self.get_finalized_command("build").build_base, "native")
        made, line = compile_all(folder)
        print(line, flush=True)
        missing = []
        for extension in self.extensions:
            target = Path(self.get_ext_fullpath(extension.name))
            target.unlink(missing_ok=True)
            source = made.get(target.stem.removeprefix("libnative_"))
            if source is None:
                missing.append(extension)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
        self.extensions = [extension for extension in self.extensions if extension not in missing]
        self.distribution.ext_modules = self.extensions

    def copy_extensions_to_source(self):
        folder = Path(self.get_finalized_command("build_py").get_package_dir(PACKAGE))
        for variant in VARIANTS:  # what could not be compiled now is not left from earlier sources
            (folder / library_name(variant)).unlink(missing_ok=True)
        super().copy_extensions_to_source()


class WheelWithoutPythonAbi(bdist_wheel):
    """For every Python: on this platform with libraries, on every platform without."""

    def run_command(self, command):
        super().run_command(command)
        if command == "build":
            self.root_is_pure = not self.distribution.has_ext_modules()

    def get_tag(self):
        return ("py3", "none", super().get_tag()[2])


setup(
    cmdclass={"build_ext": BuildNative, "bdist_wheel": WheelWithoutPythonAbi},
    ext_modules=[Extension(f"{PACKAGE}.{Path(library_name(variant)).stem}", ["native/native.cpp"], optional=True)
                 for variant in VARIANTS],
)
