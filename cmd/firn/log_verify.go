package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/firnlog/firn/broker"
	"github.com/firnlog/firn/broker/commitlog"
	"github.com/firnlog/firn/record"
)

func (a *app) logVerifyCommand() *cobra.Command {
	set := map[string]string{}
	metadata := false
	cmd := &cobra.Command{
		Use:   "verify DIR",
		Short: "Check a stopped broker's whole data folder, and say what its start would do",
		Long: `Check a stopped broker's whole data folder, the --data of firn start, and say what its next
start would do, changing nothing.

The broker's own recovery runs on a shadow of the folder, and every record batch, index and
snapshot, the journal and the metadata are read and compared with their checksums. Of each
partition it says that it is fine, what of a torn tail would be cut off, what would be taken
from the journal, which small files would be made anew, what is missing, and where damage is.

The exit code is 0 when nothing that was acknowledged is at risk, and 1 when something is
damaged or missing. A torn tail is what a crash leaves of records that were not acknowledged:
it is no damage. What was found to be torn or damaged follows from whether the machine was
started anew since the broker last ran, so ask before restarting it once more.

Copies of the metadata, the journal, and a segment that recovery would change, are made in the
folder for temporary files (TMPDIR).`,
		Example: `  firn log verify firn-data
  firn log verify --output json /var/lib/firn`,
		Args: args(cobra.ExactArgs(1), "the data folder"),
		RunE: func(cmd *cobra.Command, paths []string) error {
			if metadata {
				return inScratch(func(scratch string) error { return verifyMetadata(cmd.Context(), paths[0], scratch) })
			}
			return inScratch(func(scratch string) error { return a.verify(cmd.Context(), paths[0], scratch, set) })
		},
	}
	cmd.Flags().BoolVar(&metadata, metadataOnly, false, "read the metadata and nothing else; the command calls itself with it, since etcd's database ends the process that meets some kinds of damage")
	cmd.Flags().StringToStringVar(&set, "set", nil, "broker configs that firn start is given with --set, `NAME=VALUE`, as far as they are defaults of topics")
	return cmd
}

// metadataOnly is the flag with which the command calls itself.
const metadataOnly = "metadata-only"

// inScratch runs f with an empty folder, which is removed afterwards.
func inScratch(f func(dir string) error) error {
	dir, err := os.MkdirTemp("", "firn-verify-")
	if err != nil {
		return failf("name a folder for temporary files with the variable TMPDIR", "%w", err)
	}
	defer os.RemoveAll(dir)
	return f(dir)
}

func verifyMetadata(ctx context.Context, dir, scratch string) error {
	release, err := holdFolder(dir)
	if err != nil {
		return err
	}
	defer release()
	return broker.VerifyMetadata(ctx, dir, scratch)
}

// tryMetadata reads the metadata in a process of its own: etcd's database ends
// the process that meets some kinds of damage. It gives an error when it did.
func tryMetadata(ctx context.Context, dir string) error {
	self, err := os.Executable()
	if err != nil {
		return nil // then it is read here alone
	}
	var said strings.Builder
	cmd := exec.CommandContext(ctx, self, "log", "verify", "--"+metadataOnly, dir)
	cmd.Args[0], cmd.Stderr = os.Args[0], &said
	err = cmd.Run()
	if ended, ok := errors.AsType[*exec.ExitError](err); ok && ended.ExitCode() != exitFailed && ctx.Err() == nil {
		why, _, _ := strings.Cut(strings.TrimSpace(said.String()), "\n")
		return fmt.Errorf("reading it ends the process: %s", why)
	}
	return nil
}

func (a *app) verify(ctx context.Context, dir, scratch string, set map[string]string) error {
	release, err := holdFolder(dir)
	if err != nil {
		return err
	}
	defer release()
	var b *bar
	defer func() { b.stop() }()
	told := int64(0)
	v, err := broker.Verify(ctx, dir, scratch, set, tryMetadata(ctx, dir), func(done, all int64) {
		if told == 0 {
			b = a.progress("verifying "+dir, all)
		}
		b.advance(done - told)
		told = done
	})
	b.stop()
	b = nil
	switch {
	case errors.Is(err, broker.ErrNoDataFolder):
		return failf("name the folder that firn start has as --data", "%w", err)
	case errors.Is(err, unix.ENOSPC):
		return failf("name a folder with more room for temporary files with the variable TMPDIR", "%w", err)
	case errors.Is(err, os.ErrPermission):
		return failf("run it as the user that the broker runs as", "%w", err)
	case err != nil:
		return failf("", "%w", err)
	}
	if a.json() {
		if err := a.printJSON(verifyJSON(v)); err != nil {
			return err
		}
	} else {
		a.printVerified(v)
	}
	if v.AtRisk() {
		return failf("", "records that were acknowledged may be lost in %s", dir)
	}
	return nil
}

// holdFolder keeps a broker from starting in a data folder, and says which one
// already has. It changes nothing in it.
func holdFolder(dir string) (release func(), err error) {
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		if err == nil {
			err = fmt.Errorf("%s is no folder", dir)
		}
		return nil, failf("name the folder that firn start has as --data", "%w", err)
	}
	f, err := os.Open(filepath.Join(dir, lockName))
	if errors.Is(err, os.ErrNotExist) {
		return func() {}, nil // a copy: a broker makes the file before anything else
	}
	if err != nil {
		return nil, failf("run it as the user that the broker runs as", "%w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
		defer f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &failure{
				err:  fmt.Errorf("data folder %s is in use by %s", dir, describeHolder(f)),
				hint: "stop that one first: what it is about to write looks like damage",
				code: exitLocked,
			}
		}
		return nil, failf("", "lock %s: %w", f.Name(), err)
	}
	return func() { f.Close() }, nil
}

// verdict is what is said of one partition, a line each, the worst first.
func verdict(v *broker.Verified, p *broker.VerifiedPartition) (lines []string) {
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	for _, d := range p.Damage {
		at := d.Path
		if d.Position >= 0 {
			at += fmt.Sprintf(", byte %d", d.Position)
		}
		if d.Offset >= 0 {
			at += fmt.Sprintf(", offset %d", d.Offset)
		}
		add("DAMAGED at %s: %v", at, d.Err)
		add("%s", remedy(p, d))
	}
	if gone := p.Gone(); gone.From < gone.To {
		add("MISSING: offsets %d to %d; bring their segments back from a copy of this disk, or they are lost (unless they were deleted while the disk was full)", gone.From, gone.To-1)
	}
	switch {
	case p.Absent && v.Lost(p):
		add("MISSING: there is no folder %s, and the topic has this partition; bring it back from a copy of this disk, or the partition begins empty", p.Folder)
	case p.Absent:
		add("there is no folder: one would be made, from offset %d on", p.End)
	}
	for _, c := range p.Cut {
		add("%s of a torn tail would be cut off at offset %d (%s, byte %d: %v)", bytesText(c.Bytes), c.Offset, c.Segment, c.Position, c.Cause)
	}
	if p.FromJournal > 0 {
		add("%s would be taken from the journal, offsets %d to %d", bytesText(p.FromJournal), p.Refilled.From, p.Refilled.To-1)
	}
	if len(p.Swapped) > 0 {
		add("compacted segments would take their place: %s", strings.Join(p.Swapped, " "))
	}
	if names := append(p.Anew, p.Indexes...); len(names) > 0 {
		add("would be made anew: %s", strings.Join(names, " "))
	}
	if len(p.Removed) > 0 {
		add("would be removed, as it does not count any more: %s", strings.Join(p.Removed, " "))
	}
	if len(lines) == 0 {
		add("fine")
	}
	return lines
}

// remedy is what can be done about damage.
func remedy(p *broker.VerifiedPartition, d commitlog.Damage) string {
	switch {
	case p.Tiered && !d.Refused:
		return "what the object store has is read from there; otherwise reads of this place are refused: bring the file back from a copy of this disk"
	case d.Refused:
		return "the partition would not open, the others would: bring the file back from a copy of this disk"
	}
	return "reads of this place would be refused, those before and after it would not: bring the file back from a copy of this disk"
}

func (a *app) printVerified(v *broker.Verified) {
	fmt.Fprintf(a.out, "node %d of cluster %s\n", v.NodeID, v.ClusterID)
	if v.PowerLost {
		fmt.Fprintln(a.out, "the machine was started anew since the broker last ran: a power loss is assumed, and what was not synced may be missing or torn")
	} else {
		fmt.Fprintln(a.out, "the machine was not restarted since the broker last ran: nothing that was written should be missing")
	}
	switch {
	case v.Elsewhere:
		fmt.Fprintln(a.out, "metadata: none here; other brokers have it. If this broker was on its own, it is lost: bring the folder etcd back from a copy of this disk")
	case v.Metadata != nil:
		fmt.Fprintf(a.out, "metadata: DAMAGED: %v; the broker would not start: bring the folder etcd back from a copy of this disk\n", v.Metadata)
	default:
		fmt.Fprintln(a.out, "metadata: fine")
	}
	switch {
	case v.Journal != nil:
		fmt.Fprintf(a.out, "journal: DAMAGED: %v\n  what follows is judged as if there were no journal\n", v.Journal)
	case v.Waiting > 0:
		fmt.Fprintf(a.out, "journal: fine, has %s of %s\n", bytesText(v.Bytes), plural(v.Waiting, "partition"))
	default:
		fmt.Fprintln(a.out, "journal: fine, nothing waits in it")
	}
	for _, s := range v.Strays {
		fmt.Fprintf(a.out, "%s: of a topic that no longer exists; would be set aside\n", s)
	}
	var bytes int64
	fine := 0
	for i := range v.Partitions {
		p := &v.Partitions[i]
		bytes += p.Bytes
		lines := verdict(v, p)
		if len(lines) == 1 && lines[0] == "fine" {
			fine++
		}
		fmt.Fprintf(a.out, "%v: %s\n", p.TopicPartition, strings.Join(lines, "\n  "))
	}
	fmt.Fprintf(a.out, "%s with %s checked, %d of them fine\n", plural(len(v.Partitions), "partition"), bytesText(bytes), fine)
}

// What --output json prints.
type (
	verifiedJSON struct {
		NodeID     int32                   `json:"nodeId"`
		ClusterID  string                  `json:"clusterId"`
		PowerLost  bool                    `json:"powerLossAssumed"`
		AtRisk     bool                    `json:"atRisk"`
		Metadata   string                  `json:"metadataDamage,omitempty"`
		Elsewhere  bool                    `json:"metadataElsewhere,omitempty"`
		Journal    string                  `json:"journalDamage,omitempty"`
		Waiting    int                     `json:"journalPartitions"`
		Bytes      int64                   `json:"journalBytes"`
		Strays     []string                `json:"strayFolders"`
		Partitions []verifiedPartitionJSON `json:"partitions"`
	}
	verifiedPartitionJSON struct {
		Topic     string             `json:"topic"`
		Partition record.PartitionID `json:"partition"`
		Folder    string             `json:"folder"`
		AtRisk    bool               `json:"atRisk"`
		Absent    bool               `json:"folderMissing,omitempty"`
		Clean     bool               `json:"closedProperly"`
		Start     record.Offset      `json:"logStart"`
		Local     record.Offset      `json:"localStart"`
		End       record.Offset      `json:"logEnd"`
		Segments  int                `json:"segments"`
		Bytes     int64              `json:"bytes"`
		Damage    []damagedJSON      `json:"damage,omitempty"`
		Missing   *rangeJSON         `json:"missing,omitempty"`
		Cut       []cutJSON          `json:"tornTails,omitempty"`
		Refilled  *rangeJSON         `json:"fromJournal,omitempty"`
		Anew      []string           `json:"madeAnew,omitempty"`
		Removed   []string           `json:"removed,omitempty"`
		Swapped   []string           `json:"swappedIn,omitempty"`
		Verdict   []string           `json:"verdict"`
	}
	damagedJSON struct {
		File     string        `json:"file"`
		Position int64         `json:"position"` // -1: all of it
		Offset   record.Offset `json:"offset"`   // -1: not known
		Refused  bool          `json:"partitionDoesNotOpen"`
		Reason   string        `json:"reason"`
	}
	rangeJSON struct {
		From  record.Offset `json:"from"`
		To    record.Offset `json:"to"` // exclusive
		Bytes int64         `json:"bytes,omitempty"`
	}
	cutJSON struct {
		Segment  string        `json:"segment"`
		Position int64         `json:"position"`
		Bytes    int64         `json:"bytes"`
		Offset   record.Offset `json:"offset"`
	}
)

func verifyJSON(v *broker.Verified) verifiedJSON {
	out := verifiedJSON{
		NodeID: v.NodeID, ClusterID: v.ClusterID, PowerLost: v.PowerLost, AtRisk: v.AtRisk(),
		Elsewhere: v.Elsewhere, Waiting: v.Waiting, Bytes: v.Bytes, Strays: append([]string{}, v.Strays...), Partitions: []verifiedPartitionJSON{},
	}
	if v.Metadata != nil {
		out.Metadata = v.Metadata.Error()
	}
	if v.Journal != nil {
		out.Journal = v.Journal.Error()
	}
	for i := range v.Partitions {
		p := &v.Partitions[i]
		one := verifiedPartitionJSON{
			Topic: p.Topic, Partition: p.Partition, Folder: p.Folder, AtRisk: v.Lost(p), Absent: p.Absent, Clean: p.Clean,
			Start: p.Start, Local: p.Local, End: p.End, Segments: p.Segments, Bytes: p.Bytes,
			Anew: append(p.Anew, p.Indexes...), Removed: p.Removed, Swapped: p.Swapped, Verdict: verdict(v, p),
		}
		for _, d := range p.Damage {
			one.Damage = append(one.Damage, damagedJSON{d.Path, d.Position, d.Offset, d.Refused, d.Err.Error()})
		}
		if gone := p.Gone(); gone.From < gone.To {
			one.Missing = &rangeJSON{From: gone.From, To: gone.To}
		}
		if p.FromJournal > 0 {
			one.Refilled = &rangeJSON{p.Refilled.From, p.Refilled.To, p.FromJournal}
		}
		for _, c := range p.Cut {
			one.Cut = append(one.Cut, cutJSON{c.Segment, c.Position, c.Bytes, c.Offset})
		}
		out.Partitions = append(out.Partitions, one)
	}
	return out
}
