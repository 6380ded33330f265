"""NumPy functions that have no derivative: what to write instead."""
import numpy as np

from ..ops import refused

refused("eigenvalues of a general matrix may be complex; use numpy.linalg.eigh or eigvalsh of a symmetric one",
        np.linalg.eig, np.linalg.eigvals, np.roots, np.poly)
refused("an array of a derivative cannot be changed in place; build the result with np.where, np.concatenate, np.stack or "
        "npgen.ops.scatter", np.put, np.place, np.putmask, np.copyto, np.put_along_axis, np.fill_diagonal)
refused("select the entries first, x[~np.isnan(x)], and use the function without nan", np.nanmedian, np.nanquantile,
        np.nanpercentile)
refused("write it with np.where, or np.select for several conditions", np.piecewise)
refused("write it for the whole array with NumPy functions", np.apply_along_axis, np.apply_over_axes)
refused("the counts do not move with x; take x.value for constants, or a smooth kernel such as np.exp", np.histogram,
        np.histogram2d, np.histogramdd, np.histogram_bin_edges)
refused("which entries are equal does not move with x; sort with np.sort, or take x.value for constants", np.unique,
        np.unique_all, np.unique_counts, np.unique_inverse, np.unique_values, np.intersect1d, np.union1d, np.setdiff1d,
        np.setxor1d, np.trim_zeros)
refused("use npgen.ops.matmul and np.linalg.lstsq, or np.linalg.solve of np.vander", np.polyfit)
refused("reshape the operands and use np.linalg.solve or np.linalg.inv", np.linalg.tensorsolve, np.linalg.tensorinv)
refused("take x.value, which is a constant", np.save, np.savez, np.savez_compressed, np.savetxt, np.array2string, np.array_repr,
        np.array_str)
