package machine

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/firnlog/firn/packaging/systemd"
)

const (
	brokerUnit = systemd.BrokerName
	watchUnit  = systemd.WatchName
)

// UpConfig says what Up prepares.
type UpConfig struct {
	Root    string // "/", or a folder in its place for tests
	File    File
	Restart bool // restart the broker when it runs, so that what was changed has an effect
}

// Report is what Up found and did.
type Report struct {
	Disks      []string `json:"disks"`      // the data disks
	Device     string   `json:"device"`     // that is mounted: the disk, or the RAID 0 of them
	Formatted  bool     `json:"formatted"`  // it was empty
	Mounted    bool     `json:"mounted"`    // it was not mounted yet
	Changed    []string `json:"changed"`    // files that were written, as they were other ones
	Deployment string   `json:"deployment"` // what the broker runs as from its next start on
	Started    bool     `json:"started"`    // the broker was not running, or was restarted
	Warnings   []string `json:"warnings"`   // what could not be done and does not keep the broker from running
}

type up struct {
	root   string
	file   File
	run    Run
	report Report
}

// Up makes a machine ready for its broker and starts it: data disks, kernel
// settings, units. What is there already is left as it is: it may be called
// again at any time, and a broker that runs goes on, unless cfg.Restart.
func Up(ctx context.Context, cfg UpConfig, run Run) (Report, error) {
	u := &up{root: cfg.Root, file: cfg.File, run: run}
	u.report = Report{Changed: []string{}, Warnings: []string{}}
	sum, err := fileSum(filepath.Join(u.root, BinaryPath))
	if err != nil {
		return u.report, fmt.Errorf("the binary of this machine: %w; the script of the user data puts it there", err)
	}
	u.report.Deployment = Deployment(sum, u.file.Machine)
	if err := u.prepareData(ctx); err != nil {
		return u.report, err
	}
	if err := u.writeFiles(ctx); err != nil {
		return u.report, err
	}
	return u.report, u.start(ctx, cfg.Restart)
}

// writeFiles writes kernel settings, user, config and units, each if it is not
// as it should be, and makes known what was changed.
func (u *up) writeFiles(ctx context.Context) error {
	config, err := brokerConfig(&u.file, u.report.Deployment)
	if err != nil {
		return err
	}
	changed := map[string]bool{}
	for _, f := range []struct {
		path    string
		content []byte
	}{
		{usersPath, []byte(users)}, {sysctlPath, []byte(sysctls)}, {configPath, config},
		{filepath.Join(unitDir, brokerUnit), systemd.Broker}, {filepath.Join(unitDir, watchUnit), systemd.Watch},
	} {
		if changed[f.path], err = u.write(f.path, f.content); err != nil {
			return err
		}
		if changed[f.path] {
			u.report.Changed = append(u.report.Changed, f.path)
		}
	}
	if _, err := u.run(ctx, "systemd-sysusers", usersPath); err != nil {
		return fmt.Errorf("the broker's user: %w", err)
	}
	// At each boot systemd sets them by itself; a kernel that lacks one of them
	// runs a broker all the same.
	if _, err := u.run(ctx, "/usr/lib/systemd/systemd-sysctl", sysctlPath); err != nil && changed[sysctlPath] {
		u.report.Warnings = append(u.report.Warnings, fmt.Sprintf("kernel settings: %v", err))
	}
	if _, err := u.run(ctx, "systemctl", "daemon-reload"); err != nil {
		return fmt.Errorf("systemd: %w", err)
	}
	return nil
}

// write replaces a file, as a whole or not at all, unless it has that content.
func (u *up) write(path string, content []byte) (changed bool, err error) {
	at := filepath.Join(u.root, path)
	old, err := os.ReadFile(at)
	if err == nil && bytes.Equal(old, content) {
		return false, nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return false, err
	}
	tmp, err := os.CreateTemp(filepath.Dir(at), "."+filepath.Base(at)+"-*")
	if err != nil {
		return false, err
	}
	_, err = tmp.Write(content)
	err = errors.Join(err, tmp.Chmod(0o644), tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), at)
	}
	if err != nil {
		return false, errors.Join(fmt.Errorf("%s: %w", path, err), os.Remove(tmp.Name()))
	}
	return true, nil
}

// drainedPath is there while the broker is stopped because of a notice. It goes
// with the machine's memory.
const drainedPath = "/run/firn-drained"

// stopTime bounds a stop or restart of the broker: its unit is killed after 90 s.
const stopTime = 3 * time.Minute

// start starts what does not run. A broker that waits for a notice to pass
// (drained) is left to firn-watch.
func (u *up) start(ctx context.Context, restart bool) error {
	verb := "start"
	state, err := unitState(ctx, u.run, brokerUnit)
	if err != nil {
		return err
	}
	runs := active(state)
	switch {
	case runs && restart:
		verb = "restart"
	case runs && len(u.report.Changed) > 0:
		u.report.Warnings = append(u.report.Warnings, "the broker goes on with what was before its next start, which firn-watch gives it in its turn")
	}
	_, err = os.Stat(filepath.Join(u.root, drainedPath))
	drained := err == nil
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if drained {
		u.report.Warnings = append(u.report.Warnings, "the broker was stopped because of a notice of the cloud; firn-watch starts it when that has passed")
	}
	if (!runs || restart) && !drained {
		ctx, cancel := context.WithTimeout(ctx, stopTime)
		defer cancel()
		if _, err := u.run(ctx, "systemctl", verb, brokerUnit); err != nil {
			return fmt.Errorf("%s the broker: %w; see: journalctl -u firn", verb, err)
		}
		u.report.Started = true
	}
	if _, err := u.run(ctx, "systemctl", "start", watchUnit); err != nil {
		return fmt.Errorf("start firn-watch: %w; see: journalctl -u firn-watch", err)
	}
	return nil
}

// active says whether a unit in that state runs, starts, or waits to be started
// again.
func active(state string) bool { return state == "active" || state == "activating" }

// unitState is the state of a unit: active, activating, deactivating, inactive
// or failed. Others that systemd has are not of services that it runs.
func unitState(ctx context.Context, run Run, unit string) (string, error) {
	out, err := run(ctx, "systemctl", "show", "--property=ActiveState", "--value", unit)
	if err != nil {
		return "", fmt.Errorf("the state of %s: %w", unit, err)
	}
	switch state := strings.TrimSpace(string(out)); state {
	case "active", "activating", "deactivating", "inactive", "failed":
		return state, nil
	case "reloading", "refreshing":
		return "active", nil
	default:
		return "", fmt.Errorf("the state of %s: systemctl says %q", unit, state)
	}
}

// fileSum is a file's SHA-256 in hexadecimal.
func fileSum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
