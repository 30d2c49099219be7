"""AlexNet's errors on RobustBench's 5,000 corrupted pictures, which its mCE divides by; importing this needs no torch.

Source: Croce et al. 2021, arXiv:2010.09670, model_info/imagenet/corruptions/unaggregated_results.csv and _3d.csv.
"""

ALEXNET: dict[str, dict[str, float]] = {
    "imagenet-c": {
        **{"gaussian_noise": 0.8816, "shot_noise": 0.88832, "impulse_noise": 0.91724, "defocus_blur": 0.82204},
        **{"glass_blur": 0.8308, "motion_blur": 0.78724, "zoom_blur": 0.79572, "snow": 0.868, "frost": 0.83148},
        **{"fog": 0.82364, "brightness": 0.55848, "contrast": 0.85432, "elastic_transform": 0.64804},
        **{"pixelate": 0.71856, "jpeg_compression": 0.6068},
    },
    "imagenet-3dcc": {
        **{"near_focus": 0.61068, "far_focus": 0.65152, "bit_error": 0.68336, "color_quant": 0.5962},
        **{"flash": 0.80124, "fog_3d": 0.77356, "h265_abr": 0.5674, "h265_crf": 0.5252, "iso_noise": 0.93152},
        **{"low_light": 0.82248, "xy_motion_blur": 0.82484, "z_motion_blur": 0.79588},
    },
}
"""Mean errors over the five severities of each corruption, by kind of set."""
