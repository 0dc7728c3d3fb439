package broker

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// restarted says whether the machine has been started anew since the data
// folder was last used: what the page cache had, and the disk not, is gone
// then, in any order. It notes this start of the machine.
//
//	<data>/boot   the kernel's boot id, a line
//
// Where the system has no boot id every start of the broker counts as one of
// the machine.
func restarted(dir string) (bool, error) {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	now := strings.TrimSpace(string(raw))
	path := filepath.Join(dir, "boot")
	before, err := os.ReadFile(path)
	if err == nil && strings.TrimSpace(string(before)) == now {
		return false, nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	if err := os.WriteFile(path, []byte(now+"\n"), 0o644); err != nil {
		return false, fmt.Errorf("note the machine's start: %w", err)
	}
	return true, nil
}
