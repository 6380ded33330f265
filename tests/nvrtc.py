"""NVIDIA's runtime compiler through ctypes: what CuPy makes of a CUDA source, without a GPU or a driver.

    report = compiled(source, ("-DREAL=float",), "sm_90")      # what ptxas says of every entry point
"""
import ctypes
import importlib.util
from pathlib import Path

FLAGS = ("-std=c++17", "-ftz=true", "--device-as-default-execution-space",  # as CuPy has them
         "--ptxas-options=-v", "--ptxas-options=--warn-on-spills", "--ptxas-options=--warn-on-local-memory-usage")


def library():
    """libnvrtc of the wheel nvidia-cuda-nvrtc, loaded; None without it."""
    spec = importlib.util.find_spec("nvidia")
    folders = spec.submodule_search_locations if spec else ()
    found = [file for folder in folders for file in Path(folder).rglob("libnvrtc*.so*")]
    for file in sorted(found, key=lambda file: "builtins" not in file.name):  # the builtins first
        if "alt" not in file.name:
            loaded = ctypes.CDLL(str(file), ctypes.RTLD_GLOBAL)
    return loaded if found else None


def compiled(source, options, arch):
    """The compiler's log. Raises RuntimeError, with the log, if it refuses the source."""
    nvrtc, program = library(), ctypes.c_void_p()
    options = [option.encode() for option in (*FLAGS, *options, f"-arch={arch}")]
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"source.cu", 0, None, None)
    try:
        refused = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        size = ctypes.c_size_t()
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    if refused:
        raise RuntimeError(log.value.decode())
    return log.value.decode()
