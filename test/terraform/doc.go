// Package terraform tests the modules of terraform/ with real tools: Terraform
// itself with the real AWS provider, and moto, which answers AWS's API on
// loopback; for Google Cloud a provider that has schemas and makes nothing. It
// is a module of its own, since AWS's SDK for what is read back is large.
//
// What is missing on a machine is said, and its tests are skipped:
//
//	terraform        on the PATH, 1.9 or newer
//	the AWS provider in a plugin folder: $FIRN_TF_PLUGINS, ~/.terraform.d, or below /opt, /usr/local, /usr/share
//	python3 with venv and pip, for moto
//	node and npm, for the Google provider's schemas
package terraform
