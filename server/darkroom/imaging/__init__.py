"""Data plane: fetch, inspect, convert and keep image bytes. Knows neither RPC nor SQL."""
