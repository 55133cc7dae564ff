"""From a setting to latents: plan, schedule, guidance, loop."""
