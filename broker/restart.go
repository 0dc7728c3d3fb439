package broker

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

const bootID = "/proc/sys/kernel/random/boot_id"

// restarted says whether the machine has been started anew since noteStart
// was last called for the data folder: what the page cache had, and the disk
// not, is gone then, in any order. Where the system has no boot id every start
// of the broker counts as one of the machine.
func restarted(dir string) (bool, error) {
	now, err := os.ReadFile(bootID)
	if errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	before, err := os.ReadFile(filepath.Join(dir, "boot"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	return string(before) != string(now), nil
}

// noteStart notes this start of the machine, once recovery is over: a broker
// that crashes before has to recover from the same power loss again.
//
//	<data>/boot   the kernel's boot id, a line
func noteStart(dir string) error {
	now, err := os.ReadFile(bootID)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "boot"), now, 0o644); err != nil {
		return fmt.Errorf("note the machine's start: %w", err)
	}
	return nil
}
