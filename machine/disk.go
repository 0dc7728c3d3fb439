package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// How the clouds name their disks: AWS in the NVMe controller's model
// (user guide, "Instance store volumes" and "EBS volumes and NVMe"), Google
// Cloud by links that its udev rules make (compute guide, "Symlinks for disks").
const (
	awsLocalModel   = "Amazon EC2 NVMe Instance Storage"
	awsNetworkModel = "Amazon Elastic Block Store"
	gcpLocalLinks   = "google-local-nvme-ssd-"
	gcpNetworkLink  = "google-firn-data"
)

// Label is the label of the file system that a machine makes for the data, and
// the name of the RAID 0 of several disks.
const Label = "firn-data"

// DataDir is where it is mounted.
const DataDir = "/var/lib/firn"

// findDisks gives the devices (/dev/…) that are the data's, sorted. There is at
// least one.
func findDisks(root string, m *File) ([]string, error) {
	var found []string
	var err error
	switch {
	case m.Cloud == AWS:
		found, err = nvmeByModel(root, m.Disk)
	default:
		found, err = byLink(root, m.Disk)
	}
	if err != nil {
		return nil, fmt.Errorf("data disks: %w", err)
	}
	slices.Sort(found)
	switch {
	case len(found) == 0 && m.Disk == LocalDisk:
		return nil, errors.New("no local NVMe disk is there: choose a machine type that has one, or ask for a network disk (input disk)")
	case len(found) == 0:
		return nil, errors.New("no network disk for the data is there: it is attached as firn-data by the machine's template; look at how that is applied")
	case len(found) > 1 && m.Disk == NetworkDisk:
		return nil, fmt.Errorf("several network disks could be the data's: %s; attach one beside the root disk", strings.Join(found, ", "))
	}
	return found, nil
}

// nvmeByModel looks through /sys for NVMe disks of AWS. The root disk is one of
// its network disks, too: it is the one with partitions.
func nvmeByModel(root, kind string) (found []string, err error) {
	want := awsLocalModel
	if kind == NetworkDisk {
		want = awsNetworkModel
	}
	block := filepath.Join(root, "sys/block")
	entries, err := os.ReadDir(block)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		name := e.Name()
		if !strings.HasPrefix(name, "nvme") {
			continue
		}
		model, err := os.ReadFile(filepath.Join(block, name, "device/model"))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a path of a multipath device
		}
		if err != nil {
			return nil, err
		}
		if strings.TrimSpace(string(model)) != want {
			continue
		}
		parts, err := filepath.Glob(filepath.Join(block, name, name+"p*"))
		if err != nil {
			return nil, err
		}
		if kind == NetworkDisk && len(parts) > 0 {
			continue
		}
		found = append(found, "/dev/"+name)
	}
	return found, nil
}

// byLink looks for the links of Google Cloud's udev rules.
func byLink(root, kind string) (found []string, err error) {
	dir := filepath.Join(root, "dev/disk/by-id")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		name := e.Name()
		switch rest, local := strings.CutPrefix(name, gcpLocalLinks); {
		case strings.Contains(name, "-part"), kind == NetworkDisk && name != gcpNetworkLink, kind == LocalDisk && (!local || rest == ""):
			continue
		}
		target, err := os.Readlink(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join("/dev/disk/by-id", target)
		}
		if device := filepath.Clean(target); !slices.Contains(found, device) {
			found = append(found, device)
		}
	}
	return found, nil
}

// contents is what blkid finds on a device.
type contents struct {
	kind  string // xfs, linux_raid_member, …; "" for nothing that is known
	label string
	table string // of partitions: gpt, dos; "" for none
}

func (c contents) empty() bool { return c == contents{} }

func (c contents) String() string {
	switch {
	case c.table != "":
		return "a partition table (" + c.table + ")"
	case c.label != "":
		return fmt.Sprintf("%s with the label %q", c.kind, c.label)
	}
	return c.kind
}

// probe asks what a device holds, past any cache.
func (u *up) probe(ctx context.Context, device string) (contents, error) {
	out, err := u.run(ctx, "blkid", "--probe", "--output", "export", device)
	if exited(err, 2) && len(out) == 0 { // blkid(8): nothing was found
		return contents{}, nil
	}
	if exited(err, 8) {
		return contents{}, fmt.Errorf("what %s holds is ambiguous; if it is not needed, empty it with: wipefs --all %s", device, device)
	}
	if err != nil {
		return contents{}, fmt.Errorf("what %s holds: %w", device, err)
	}
	var c contents
	for line := range strings.Lines(string(out)) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch k {
		case "TYPE":
			c.kind = v
		case "LABEL":
			c.label = strings.ReplaceAll(v, `\ `, " ")
		case "PTTYPE":
			c.table = v
		}
	}
	if c.empty() {
		return c, fmt.Errorf("what %s holds: blkid says %q", device, out)
	}
	return c, nil
}

// prepareData finds the data disks, makes one of them, formats it when it is
// empty and mounts it. What holds anything else is refused by name.
func (u *up) prepareData(ctx context.Context) error {
	disks, err := findDisks(u.root, &u.file)
	if err != nil {
		return err
	}
	device, err := u.oneOf(ctx, disks)
	if err != nil {
		return err
	}
	u.report.Device, u.report.Disks = device, disks
	mounted, err := u.mountedAt(DataDir)
	if err != nil {
		return err
	}
	if mounted != "" {
		if same, err := u.sameDevice(mounted, device); err != nil || !same {
			return errors.Join(err, fmt.Errorf("%s is mounted at %s, not the data disk %s: unmount it, or take it out of /etc/fstab", mounted, DataDir, device))
		}
		return nil
	}
	c, err := u.probe(ctx, device)
	if err != nil {
		return err
	}
	switch {
	case c.empty():
		// Without -f: mkfs looks for itself, too, and does not overwrite.
		if _, err := u.run(ctx, "mkfs.xfs", "-q", "-L", Label, device); err != nil {
			return fmt.Errorf("format %s: %w", device, err)
		}
		u.report.Formatted = true
	case c.kind != "xfs" || c.label != Label:
		return fmt.Errorf("%s holds %s and is not touched; if that is not needed, empty it with: wipefs --all %s", device, c, device)
	}
	if err := os.MkdirAll(filepath.Join(u.root, DataDir), 0o750); err != nil {
		return err
	}
	if _, err := u.run(ctx, "mount", "-t", "xfs", "-o", "noatime", device, DataDir); err != nil {
		return fmt.Errorf("mount %s: %w", device, err)
	}
	u.report.Mounted = true
	return nil
}

// oneOf gives the device to use: the disk, or the RAID 0 of several, which is
// put together, or made when all of them are empty.
func (u *up) oneOf(ctx context.Context, disks []string) (string, error) {
	if len(disks) == 1 {
		return disks[0], nil
	}
	if md, err := u.assembled(disks); md != "" || err != nil {
		return md, err
	}
	var empty, members []string
	for _, d := range disks {
		c, err := u.probe(ctx, d)
		switch {
		case err != nil:
			return "", err
		case c.empty():
			empty = append(empty, d)
		case c.kind == "linux_raid_member" && (c.label == Label || strings.HasSuffix(c.label, ":"+Label)):
			members = append(members, d)
		default:
			return "", fmt.Errorf("%s holds %s and is not touched; if that is not needed, empty it with: wipefs --all %s", d, c, d)
		}
	}
	const device = "/dev/md/" + Label
	var err error
	switch {
	case len(members) == len(disks):
		_, err = u.run(ctx, "mdadm", append([]string{"--assemble", "--run", device}, disks...)...)
	case len(empty) == len(disks):
		args := []string{"--create", device, "--run", "--level=0", "--metadata=1.2", "--homehost=any", "--name=" + Label, fmt.Sprintf("--raid-devices=%d", len(disks))}
		_, err = u.run(ctx, "mdadm", append(args, disks...)...)
	default:
		return "", fmt.Errorf("%s belong to a RAID of before and %s are empty: what it held is lost; empty all with: wipefs --all %s",
			strings.Join(members, ", "), strings.Join(empty, ", "), strings.Join(members, " "))
	}
	if err != nil {
		return "", fmt.Errorf("RAID 0 of %s: %w; mdadm and the kernel's md are needed", strings.Join(disks, ", "), err)
	}
	return device, nil
}

// assembled gives the md device that the kernel or udev has made of just these
// disks already, "" for none.
func (u *up) assembled(disks []string) (string, error) {
	all, err := filepath.Glob(filepath.Join(u.root, "sys/block/md*/slaves"))
	if err != nil {
		return "", err
	}
	for _, slaves := range all {
		entries, err := os.ReadDir(slaves)
		if err != nil {
			return "", err
		}
		var of []string
		for _, e := range entries {
			of = append(of, "/dev/"+e.Name())
		}
		slices.Sort(of)
		if slices.Equal(of, disks) {
			return "/dev/" + filepath.Base(filepath.Dir(slaves)), nil
		}
	}
	return "", nil
}

// mountedAt gives what is mounted at a folder, "" for nothing.
func (u *up) mountedAt(dir string) (source string, err error) {
	data, err := os.ReadFile(filepath.Join(u.root, "proc/self/mountinfo"))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(data)) {
		// proc(5): … (5) mount point … - (9) type (10) source …
		before, after, ok := strings.Cut(line, " - ")
		fields, rest := strings.Fields(before), strings.Fields(after)
		if ok && len(fields) >= 5 && len(rest) >= 2 && fields[4] == dir {
			source = rest[1] // the last one covers those before
		}
	}
	return source, nil
}

// sameDevice compares two paths of devices, links followed.
func (u *up) sameDevice(a, b string) (bool, error) {
	if a == b {
		return true, nil
	}
	x, err := filepath.EvalSymlinks(filepath.Join(u.root, a))
	if err != nil {
		return false, err
	}
	y, err := filepath.EvalSymlinks(filepath.Join(u.root, b))
	return x == y, err
}
