//go:build !linux

package api

// diskSpace gives -1, which the protocol takes for unknown: each system asks
// in its own way, and Firn runs in earnest on Linux only.
func diskSpace(string) (total, usable int64, err error) { return -1, -1, nil }
