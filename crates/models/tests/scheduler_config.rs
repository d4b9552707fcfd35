//! Schedulers of diffusers beyond their trajectories: keys, defaults, errors, and what the network is told.

use candle_core::{Result, Tensor};
use langevin_dynamics::process::{AnyProcess, TableOptions};
use langevin_dynamics::{Cond, Net, Preconditioned};
use langevin_models::diffusers::Scheduler;
use serde_json::{Value, json};

fn read(config: Value) -> std::result::Result<Scheduler, String> {
    Scheduler::from_json(&config.to_string()).map_err(|e| e.to_string().lines().next().unwrap_or("").to_string())
}

fn of(class: &str, keys: Value) -> std::result::Result<Scheduler, String> {
    let mut config = json!({"_class_name": format!("{class}Scheduler")});
    for (key, value) in keys.as_object().unwrap() {
        config[key] = value.clone();
    }
    read(config)
}

const CLASSES: [&str; 10] = [
    "DDPM",
    "DDIM",
    "PNDM",
    "DPMSolverMultistep",
    "UniPCMultistep",
    "EulerDiscrete",
    "EulerAncestralDiscrete",
    "HeunDiscrete",
    "ScoreSdeVe",
    "CMStochasticIterative",
];

/// Missing keys have the defaults of the class, unknown ones are ignored, null is as good as missing.
#[test]
fn defaults() {
    for class in CLASSES {
        let bare = of(class, json!({})).unwrap();
        let more = of(class, json!({"_diffusers_version": "0.1.1", "tensor_format": "pt", "trained_betas": null}));
        assert_eq!(format!("{bare:?}"), format!("{:?}", more.unwrap()), "{class}");
        let plan = bare.plan(4).unwrap();
        assert_eq!(plan.steps.len(), 4, "{class}");
        let times = plan.times();
        assert!(times.windows(2).all(|pair| pair[0] > pair[1]), "{class}: {times:?}");
        let usual = match class {
            "DDPM" => 1000,
            "ScoreSdeVe" => 2000,
            "CMStochasticIterative" => 1,
            _ => 50,
        };
        assert_eq!(bare.steps, usual, "{class}");
        assert_eq!(bare.plan(usual).unwrap().steps.len(), usual, "{class}");
    }
    // the signature of Heun's differs from the others'
    let heun = of("HeunDiscrete", json!({})).unwrap();
    let AnyProcess::Table(table) = heun.process else { panic!() };
    let TableOptions { beta_start, beta_end, .. } = table.options();
    assert_eq!((*beta_start, *beta_end), (0.00085, 0.012));
    assert!(of("DDPM", json!({})).unwrap().clip.is_some());
    assert!(of("DDPM", json!({"clip_sample": false})).unwrap().clip.is_none());
    assert!(of("PNDM", json!({"clip_sample": true})).unwrap().clip.is_none());
}

/// Python writes infinities bare; a word in a string stays what it is.
#[test]
fn infinities() {
    let text = r#"{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -Infinity, "s_tmax": Infinity,
                   "note": "-Infinity \" NaN", "other": NaN}"#;
    let ours = Scheduler::from_json(text).unwrap();
    assert_eq!(format!("{ours:?}"), format!("{:?}", of("DPMSolverMultistep", json!({})).unwrap()));
    let text = r#"{"_class_name": "DDPMScheduler", "beta_end": Infinity}"#;
    assert!(Scheduler::from_json(text).unwrap_err().to_string().contains("beta_end"));
}

/// What the network is told is the integer timestep, and sigma for the variance exploding one.
#[test]
fn what_the_network_is_told() {
    struct Nothing;
    impl Net for Nothing {
        fn forward(&self, x: &Tensor, _: &Tensor, _: &Cond) -> Result<Tensor> {
            Ok(x.clone())
        }
    }
    let c_of = |scheduler: &Scheduler, t: f64| {
        let (process, predict) = (scheduler.process.get(), scheduler.predict.get());
        Preconditioned::new(&Nothing, process, predict, scheduler.sigma_data, Cond::default()).unwrap().coefficients(t)
    };
    for class in CLASSES.iter().take(8) {
        let scheduler = of(class, json!({})).unwrap();
        for t in [1., 2., 500., 1000.] {
            let c = c_of(&scheduler, t);
            assert_eq!(c.c_noise, t - 1., "{class}");
            assert!((c.c_in - 1.).abs() < 1e-12, "{class}");
        }
    }
    let c = c_of(&of("ScoreSdeVe", json!({})).unwrap(), 3.);
    assert_eq!((c.c_noise, c.c_in, c.c_skip, c.c_out), (3., 1., 1., 9.));
    let c = c_of(&of("CMStochasticIterative", json!({})).unwrap(), 3.);
    let (from, total) = (2.998f64, 9.25f64);
    assert!((c.c_noise - 250. * 3f64.ln()).abs() < 1e-10);
    assert!((c.c_in - total.powf(-0.5)).abs() < 1e-14);
    assert!((c.c_skip - 0.25 / (from * from + 0.25)).abs() < 1e-14);
    assert!((c.c_out - from * 0.5 / total.sqrt()).abs() < 1e-14);
    let c = c_of(&of("CMStochasticIterative", json!({})).unwrap(), 0.002);
    assert_eq!((c.c_skip, c.c_out), (1., 0.));
}

/// A value that is not supported is an error that names its key; nothing panics.
#[test]
fn errors() {
    for (class, keys, names) in [
        ("LCM", json!({}), "_class_name"),
        ("DDPM", json!({"variance_type": "learned_range"}), "variance_type"),
        ("DDPM", json!({"variance_type": "learned"}), "twice the channels"),
        ("DPMSolverMultistep", json!({"variance_type": "learned_range"}), "variance_type"),
        ("DDPM", json!({"variance_type": "big"}), "fixed_large_log"),
        ("DDPM", json!({"prediction_type": "flow_prediction"}), "prediction_type"),
        ("PNDM", json!({"prediction_type": "sample"}), "prediction_type"),
        ("DDIM", json!({"timestep_spacing": "sideways"}), "timestep_spacing"),
        ("DDIM", json!({"clip_sample": "yes"}), "clip_sample"),
        ("DDIM", json!({"steps_offset": -1}), "steps_offset"),
        ("DDIM", json!({"beta_schedule": "sigmoid"}), "beta_schedule"),
        ("DDPM", json!({"beta_start": "low"}), "beta_start"),
        ("DDPM", json!({"beta_end": 1.5}), "beta_end"),
        ("DDPM", json!({"trained_betas": [0.1, 0.2]}), "trained_betas"),
        ("DDPM", json!({"trained_betas": [0.1, "a"]}), "trained_betas"),
        ("DDPM", json!({"num_train_timesteps": 1e9}), "num_train_timesteps"),
        ("DDPM", json!({"num_train_timesteps": 1e300}), "num_train_timesteps"),
        ("DDPM", json!({"num_train_timesteps": 0}), "num_train_timesteps"),
        ("DDPM", json!({"thresholding": true, "sample_max_value": 0.5}), "max_threshold"),
        ("DPMSolverMultistep", json!({"solver_order": 4}), "solver_order"),
        ("DPMSolverMultistep", json!({"algorithm_type": "sde-dpmsolver"}), "algorithm_type"),
        ("DPMSolverMultistep", json!({"algorithm_type": "dpmsolver"}), "final_sigmas_type"),
        ("DPMSolverMultistep", json!({"use_dynamic_shifting": true}), "use_dynamic_shifting"),
        ("DPMSolverMultistep", json!({"use_karras_sigmas": true, "use_beta_sigmas": true}), "use_beta_sigmas"),
        ("DPMSolverMultistep", json!({"use_flow_sigmas": true, "flow_shift": 0}), "flow_shift"),
        ("DPMSolverMultistep", json!({"use_flow_sigmas": true, "prediction_type": "v_prediction"}), "prediction_type"),
        ("UniPCMultistep", json!({"solver_p": {"a": 1}}), "solver_p"),
        ("UniPCMultistep", json!({"disable_corrector": [0.5]}), "disable_corrector"),
        ("UniPCMultistep", json!({"sigma_min": -1}), "sigma_min"),
        ("EulerDiscrete", json!({"final_sigmas_type": "one"}), "final_sigmas_type"),
        ("EulerDiscrete", json!({"interpolation_type": "cubic"}), "interpolation_type"),
        ("EulerAncestralDiscrete", json!({"prediction_type": "sample"}), "prediction_type"),
        ("ScoreSdeVe", json!({"sigma_min": 0}), "sigma_min"),
        ("ScoreSdeVe", json!({"snr": -1}), "snr"),
        ("CMStochasticIterative", json!({"rho": 0}), "rho"),
        ("CMStochasticIterative", json!({"num_train_timesteps": 0}), "num_train_timesteps"),
    ] {
        let text = of(class, keys.clone()).map(|_| ()).expect_err(&format!("{class} {keys}"));
        assert!(text.contains(names), "{class} {keys}: {text}");
    }
    for text in ["", "[]", "{", "\"", "{\"_class_name\": 3}", "{\"a\": -", "{\"_class_name\": \"\\", "3", "Infinity"] {
        assert!(Scheduler::from_json(text).is_err(), "{text}");
    }
    for class in CLASSES {
        let scheduler = of(class, json!({})).unwrap();
        assert!(scheduler.plan(0).unwrap_err().to_string().contains("0"), "{class}");
        assert!(scheduler.plan(10_000_000).is_err(), "{class}");
        for steps in [1, 2, 3, 4, 7, 33, 999, 1000] {
            if let Ok(plan) = scheduler.plan(steps) {
                assert!(plan.steps.iter().all(|(t, s)| t.is_finite() && s.is_finite() && *t > 0.), "{class} {steps}");
            }
        }
    }
}

/// Whatever stands in a key, there is a scheduler or an error, and steps or an error, never a panic.
#[test]
fn no_value_of_any_key_panics() {
    let keys = "num_train_timesteps beta_start beta_end beta_schedule trained_betas variance_type clip_sample \
                prediction_type thresholding dynamic_thresholding_ratio clip_sample_range sample_max_value \
                timestep_spacing steps_offset rescale_betas_zero_snr set_alpha_to_one skip_prk_steps solver_order \
                algorithm_type solver_type lower_order_final euler_at_final use_karras_sigmas use_exponential_sigmas \
                use_beta_sigmas use_lu_lambdas use_flow_sigmas flow_shift final_sigmas_type lambda_min_clipped \
                use_dynamic_shifting predict_x0 disable_corrector solver_p sigma_min sigma_max interpolation_type \
                timestep_type snr sampling_eps correct_steps sigma_data s_noise rho clip_denoised";
    let values = json!([
        null, true, false, -1, 0, 0.5, 1, 2, 7, 5e-324, 1e-9, 0.999999, 1e9, 1e300, -1e300, "a", "", "-Infinity", "NaN",
        "sample", "linspace", "trailing", "sigma_min", "dpmsolver", "heun", "log_linear", "continuous", [], [0.1], [-1],
        [1e300], {}, {"a": 1}
    ]);
    let also = [json!({}), json!({"use_karras_sigmas": true}), json!({"use_flow_sigmas": true, "flow_shift": 3})];
    let (mut read, mut planned) = (0, 0);
    for class in CLASSES {
        for key in keys.split_whitespace() {
            for (value, also) in values.as_array().unwrap().iter().flat_map(|v| also.iter().map(move |a| (v, a))) {
                let mut config = also.clone();
                config[key] = value.clone();
                let Ok(scheduler) = of(class, config.clone()) else { continue };
                read += 1;
                for steps in [1, 2, 5] {
                    let Ok(plan) = scheduler.plan(steps) else { continue };
                    let good = |(t, s): &(f64, f64)| t.is_finite() && s.is_finite() && *t > 0. && *s >= 0.;
                    assert!(plan.steps.iter().all(good) && plan.start.is_finite(), "{class} {config}: {plan:?}");
                    assert!(plan.timesteps.iter().all(|(_, told)| told.is_finite()), "{class} {config}: {plan:?}");
                    planned += 1;
                }
            }
        }
    }
    assert!(read > 10_000 && planned > 20_000, "{read} {planned}");
}
