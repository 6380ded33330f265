"""pomegranate's side of the table of mixtures. For the anatomy see with_npgen.py."""
import pomegranate
import torch
from pomegranate.distributions import Normal
from pomegranate.gmm import GeneralMixtureModel


def facts():
    """Versions, in words."""
    return {"pomegranate": f"{pomegranate.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads"}


def mixture_fit(problem):
    x = torch.from_numpy(problem["x"])

    def fit(max_iter):
        normals = [Normal(torch.from_numpy(m.copy()), torch.linalg.inv(torch.from_numpy(p)), covariance_type="full")
                   for m, p in zip(problem["means"], problem["precisions"], strict=True)]
        for normal in normals:
            normal.min_cov = 0.0
        model = GeneralMixtureModel(normals, priors=torch.from_numpy(problem["weights"]), max_iter=max_iter, tol=-1e300)
        return model.double().fit(x)

    def run(n):
        for _ in range(n):
            fit(problem["iterations"])

    yield "pomegranate", lambda: {"nats": float(fit(problem["iterations"]).log_probability(x).mean())}, run
