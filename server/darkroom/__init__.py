"""Darkroom: a self-hosted image service that speaks the Yandex Compute Cloud API on the wire."""
