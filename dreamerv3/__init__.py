"""DreamerV3 (Hafner et al. 2025) with Plan2Explore (Sekar et al. 2020), for the CPU."""
