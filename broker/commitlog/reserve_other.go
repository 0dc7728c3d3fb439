//go:build !linux

package commitlog

import "os"

// reserve does nothing where the system has no call that keeps the length.
func reserve(*os.File, int64) error { return nil }
