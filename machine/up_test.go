package machine

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/firnlog/firn/broker/config"
)

var update = flag.Bool("update", false, "write the golden files of this package anew")

// system stands for a machine's commands: it notes them and answers as a
// machine would whose disks hold what it says.
type system struct {
	t       *testing.T
	root    string
	log     []string
	holds   map[string]string // device → what blkid prints; "" for empty
	active  bool              // firn.service
	failing string            // a command that fails
}

func (s *system) run(_ context.Context, name string, args ...string) ([]byte, error) {
	line := strings.Join(append([]string{name}, args...), " ")
	s.log = append(s.log, line)
	if s.failing != "" && strings.HasPrefix(line, s.failing) {
		return nil, &ExitError{Command: line, Code: 1, Stderr: "it fails"}
	}
	device := args[len(args)-1]
	switch {
	case name == "blkid":
		switch found, known := s.holds[device]; {
		case !known:
			return nil, &ExitError{Command: line, Code: 4, Stderr: "no such device"}
		case found == "ambivalent":
			return nil, &ExitError{Command: line, Code: 8}
		case found == "":
			return nil, &ExitError{Command: line, Code: 2}
		default:
			return []byte("DEVNAME=" + device + "\n" + found + "\n"), nil
		}
	case name == "mkfs.xfs":
		s.holds[device] = "LABEL=" + args[2] + "\nTYPE=xfs\nUSAGE=filesystem"
	case name == "mdadm":
		for _, d := range args {
			if strings.HasPrefix(d, "/dev/nvme") {
				s.holds[d] = "TYPE=linux_raid_member\nLABEL=any:firn-data"
			}
		}
		if _, known := s.holds["/dev/md/firn-data"]; !known {
			s.holds["/dev/md/firn-data"] = ""
		}
	case name == "mount":
		s.mounted(args[len(args)-2], args[len(args)-1])
	case line == "systemctl show --property=ActiveState --value firn.service":
		if s.active {
			return []byte("active\n"), nil
		}
		return []byte("inactive\n"), nil
	case line == "systemctl start firn.service", line == "systemctl restart firn.service":
		s.active = true
	}
	return nil, nil
}

func (s *system) mounted(device, dir string) {
	text := "22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/root rw\n"
	if device != "" {
		text += fmt.Sprintf("36 22 259:0 / %s rw,noatime shared:9 - xfs %s rw,attr2\n", dir, device)
	}
	s.write("proc/self/mountinfo", text)
}

func (s *system) write(path, content string) {
	s.t.Helper()
	at := filepath.Join(s.root, path)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(at, []byte(content), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

func (s *system) link(target, path string) {
	s.t.Helper()
	at := filepath.Join(s.root, path)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Symlink(target, at); err != nil {
		s.t.Fatal(err)
	}
}

// newSystem is a machine of a cloud with so many data disks, all of them empty.
func newSystem(t *testing.T, cloud, disk string, disks int) (*system, File) {
	t.Helper()
	s := &system{t: t, root: t.TempDir(), holds: map[string]string{}}
	s.write(BinaryPath, "a binary")
	s.mounted("", "")
	m, err := ParseFile([]byte(goodFile))
	if err != nil {
		t.Fatal(err)
	}
	m.Cloud, m.Disk = cloud, disk
	if cloud == GCP {
		m.Store = "gs://prod-logs/firn"
		s.link("../../sda", "dev/disk/by-id/google-persistent-disk-0")
		s.link("../../sda1", "dev/disk/by-id/google-persistent-disk-0-part1")
	} else {
		s.write("sys/block/nvme0n1/device/model", "Amazon Elastic Block Store              \n")
		s.write("sys/block/nvme0n1/nvme0n1p1/partition", "1\n")
		s.write("sys/block/loop0/size", "0\n")
	}
	for i := 1; i <= disks; i++ {
		name := fmt.Sprintf("nvme%dn1", i)
		s.holds["/dev/"+name] = ""
		switch {
		case cloud == AWS && disk == LocalDisk:
			s.write("sys/block/"+name+"/device/model", awsLocalModel+"        \n")
		case cloud == AWS:
			s.write("sys/block/"+name+"/device/model", awsNetworkModel+"              \n")
		case disk == LocalDisk:
			s.link("../../"+name, fmt.Sprintf("dev/disk/by-id/google-local-nvme-ssd-%d", i-1))
		default:
			s.link("../../"+name, "dev/disk/by-id/google-firn-data")
		}
	}
	return s, m
}

func (s *system) up(m File, restart bool) (Report, error) {
	return Up(context.Background(), UpConfig{Root: s.root, File: m, Restart: restart}, s.run)
}

// TestUp holds what is run on each kind of machine to a golden file: a command
// more, or another order, shows as a difference.
func TestUp(t *testing.T) {
	var all strings.Builder
	for _, c := range []struct {
		name, cloud, disk string
		disks             int
		before            func(*system)
		restart           bool
	}{
		{"aws, one local disk", AWS, LocalDisk, 1, nil, false},
		{"aws, two local disks", AWS, LocalDisk, 2, nil, false},
		{"aws, network disk", AWS, NetworkDisk, 1, nil, false},
		{"gcp, one local disk", GCP, LocalDisk, 1, nil, false},
		{"gcp, four local disks", GCP, LocalDisk, 4, nil, false},
		{"gcp, network disk", GCP, NetworkDisk, 1, nil, false},
		{"a disk of before", AWS, LocalDisk, 1, func(s *system) { s.holds["/dev/nvme1n1"] = "LABEL=firn-data\nTYPE=xfs" }, false},
		{"a raid of before", AWS, LocalDisk, 2, func(s *system) {
			s.holds["/dev/nvme1n1"] = "TYPE=linux_raid_member\nLABEL=b1:firn-data"
			s.holds["/dev/nvme2n1"] = s.holds["/dev/nvme1n1"]
			s.holds["/dev/md/firn-data"] = "LABEL=firn-data\nTYPE=xfs"
		}, false},
		{"a raid that udev put together", AWS, LocalDisk, 2, func(s *system) {
			s.write("sys/block/md127/slaves/nvme1n1/size", "1")
			s.write("sys/block/md127/slaves/nvme2n1/size", "1")
			s.holds["/dev/md127"] = "LABEL=firn-data\nTYPE=xfs"
		}, false},
		{"a broker that runs, restarted", AWS, LocalDisk, 1, func(s *system) { s.active = true }, true},
		{"a broker that runs", AWS, LocalDisk, 1, func(s *system) { s.active = true }, false},
		{"a broker that waits for a notice to pass", AWS, LocalDisk, 1, func(s *system) { s.write(drainedPath, "") }, false},
	} {
		s, m := newSystem(t, c.cloud, c.disk, c.disks)
		if c.before != nil {
			c.before(s)
		}
		r, err := s.up(m, c.restart)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		fmt.Fprintf(&all, "# %s\n%s\nreport: %+v\n\n", c.name, strings.ReplaceAll(strings.Join(s.log, "\n"), s.root, "ROOT"), r)
		// Again: nothing changes.
		before := len(s.log)
		again, err := s.up(m, false)
		if err != nil || again.Formatted || again.Mounted || len(again.Changed) > 0 {
			t.Errorf("%s, again: %+v, %v", c.name, again, err)
		}
		for _, line := range s.log[before:] {
			if strings.HasPrefix(line, "mkfs") || strings.HasPrefix(line, "mount") || strings.Contains(line, "--create") || strings.Contains(line, "restart") {
				t.Errorf("%s, again: %s", c.name, line)
			}
		}
	}
	golden := "testdata/up.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(all.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if all.String() != string(want) {
		t.Errorf("%s differs (go test ./machine -run TestUp -update):\n%s", golden, all.String())
	}
}

// TestUpRefuses has disks that may be somebody's: each is refused by name, and
// nothing is written to any.
func TestUpRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		cloud, disk string
		disks       int
		before      func(*system)
		says        string
	}{
		"no local disk":           {AWS, LocalDisk, 0, nil, "choose a machine type"},
		"no local disk on gcp":    {GCP, LocalDisk, 0, nil, "choose a machine type"},
		"no network disk":         {GCP, NetworkDisk, 0, nil, "no network disk"},
		"two network disks":       {AWS, NetworkDisk, 2, nil, "/dev/nvme1n1, /dev/nvme2n1"},
		"another file system":     {AWS, LocalDisk, 1, func(s *system) { s.holds["/dev/nvme1n1"] = "TYPE=ext4\nLABEL=mine" }, `/dev/nvme1n1 holds ext4 with the label "mine"`},
		"xfs without the label":   {AWS, LocalDisk, 1, func(s *system) { s.holds["/dev/nvme1n1"] = "TYPE=xfs" }, "/dev/nvme1n1 holds xfs"},
		"a partition table":       {AWS, LocalDisk, 1, func(s *system) { s.holds["/dev/nvme1n1"] = "PTTYPE=gpt" }, "a partition table (gpt)"},
		"an ambiguous disk":       {AWS, LocalDisk, 1, func(s *system) { s.holds["/dev/nvme1n1"] = "ambivalent" }, "ambiguous"},
		"one of two is foreign":   {AWS, LocalDisk, 2, func(s *system) { s.holds["/dev/nvme2n1"] = "TYPE=LVM2_member" }, "/dev/nvme2n1 holds LVM2_member"},
		"one of two is new":       {AWS, LocalDisk, 2, func(s *system) { s.holds["/dev/nvme2n1"] = "TYPE=linux_raid_member\nLABEL=a:firn-data" }, "/dev/nvme1n1 are empty"},
		"another raid":            {AWS, LocalDisk, 2, func(s *system) { s.holds["/dev/nvme2n1"] = "TYPE=linux_raid_member\nLABEL=a:root" }, "linux_raid_member"},
		"another mount":           {AWS, LocalDisk, 1, func(s *system) { s.mounted("/dev/sdz", DataDir); s.write("dev/sdz", ""); s.write("dev/nvme1n1", "") }, "/dev/sdz is mounted"},
		"mkfs fails":              {AWS, LocalDisk, 1, func(s *system) { s.failing = "mkfs.xfs" }, "it fails"},
		"no md in the kernel":     {AWS, LocalDisk, 2, func(s *system) { s.failing = "mdadm" }, "the kernel's md"},
		"the unit does not start": {AWS, LocalDisk, 1, func(s *system) { s.failing = "systemctl start firn.service" }, "journalctl -u firn"},
	} {
		t.Run(name, func(t *testing.T) {
			s, m := newSystem(t, c.cloud, c.disk, c.disks)
			if c.before != nil {
				c.before(s)
			}
			_, err := s.up(m, false)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("says %v, want …%s…", err, c.says)
			}
			if s.failing == "" && slices.ContainsFunc(s.log, func(l string) bool { return !strings.HasPrefix(l, "blkid") }) {
				t.Errorf("it did more than look: %v", s.log)
			}
		})
	}
	s, m := newSystem(t, AWS, LocalDisk, 1)
	if err := os.Remove(filepath.Join(s.root, BinaryPath)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.up(m, false); !errors.Is(err, os.ErrNotExist) || len(s.log) > 0 {
		t.Errorf("without a binary: %v after %v", err, s.log)
	}
}

// What is written as the broker's configuration is one that firn start takes,
// and says what the machine file says.
func TestBrokerConfig(t *testing.T) {
	for name, change := range map[string]func(*File){
		"a member":           func(*File) {},
		"no member":          func(m *File) { m.Host = "broker-9.prod.internal" },
		"alone":              func(m *File) { m.Seeds = nil },
		"public":             func(m *File) { m.Advertise = "203.0.113.9:9092" },
		"configs that clash": func(m *File) { m.Config = map[string]string{"num.partitions": "007", "log.retention.ms": "-1"} },
	} {
		t.Run(name, func(t *testing.T) {
			m, err := ParseFile([]byte(goodFile))
			if err != nil {
				t.Fatal(err)
			}
			change(&m)
			text, err := brokerConfig(&m, "0a0a0a0a0a0a.m1")
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "firn.yaml")
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
			l, err := config.Load(config.Inputs{File: path})
			if err != nil {
				t.Fatalf("%v in\n%s", err, text)
			}
			s := l.Settings
			wantPeer, wantSeeds := "broker-1.prod.internal:2380", 3
			if name == "no member" || name == "alone" {
				wantPeer = ""
			}
			if name == "alone" {
				wantSeeds = 0
			}
			wantAdvertise := m.Host + ":9092"
			if m.Advertise != "" {
				wantAdvertise = m.Advertise
			}
			if s.NodeID != 1 || s.Rack != m.Rack || s.Data != DataDir || s.Store != m.Store || s.Peer != wantPeer || len(s.Seeds) != wantSeeds ||
				s.Advertise != wantAdvertise || s.Deployment != "0a0a0a0a0a0a.m1" || s.HTTP != "0.0.0.0:9644" {
				t.Errorf("%+v from\n%s", s, text)
			}
		})
	}
}
