package partition

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/firnlog/firn/broker/commitlog/journal"
	"github.com/firnlog/firn/broker/disk"
	"github.com/firnlog/firn/record"
)

func openJournal(t testing.TB, dir string, d *disk.Disk) *journal.Journal {
	t.Helper()
	j, err := journal.Open(dir, powerJournal, journal.Deps{Disk: d, Log: testLog})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// TestLogStartInABatchOfTheJournal: records were deleted up to the middle of a
// batch, and after a power loss the journal alone has the records.
func TestLogStartInABatchOfTheJournal(t *testing.T) {
	live, lost := t.TempDir(), filepath.Join(t.TempDir(), "lost")
	cfg := testConfig()
	cfg.Fsync = true
	j := openJournal(t, filepath.Join(live, "journal"), nil)
	p := open(t, filepath.Join(live, "p"), cfg, Deps{Journal: j})
	for range 3 {
		res, err := p.Append(plain(t, 1e12, "a", "b", "c", "d"), Client)
		if err != nil {
			t.Fatal(err)
		}
		acked := make(chan error, 1)
		p.AwaitHighWatermark(res.LastOffset+1, func(err error) { acked <- err })
		if err := <-acked; err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.DeleteRecords(6); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(lost, os.DirFS(live)); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(lastOf(filepath.Join(lost, "p"), "*.log")); err != nil {
		t.Fatal(err)
	}
	j = openJournal(t, filepath.Join(lost, "journal"), nil)
	defer j.Close()
	p = open(t, filepath.Join(lost, "p"), cfg, Deps{Journal: j, PowerLost: true})
	defer p.Close()
	recs, err := readFrom(p, 6, 1<<20)
	if err != nil || len(recs) != 6 || recs[0].Offset != 6 || p.LogStart() != 6 {
		t.Errorf("%d records from %d on: %v", len(recs), p.LogStart(), err)
	}
}

// TestDeletedWhileTheJournalFlushes: the folder goes away between the syncs
// that the journal asked for. That is no failure of the disk.
func TestDeletedWhileTheJournalFlushes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "t", "p")
	var p *Partition
	d := disk.Real()
	real := d.Sync
	armed := false
	d.Sync = func(f *os.File) error {
		err := real(f)
		if armed && strings.HasSuffix(f.Name(), ".log") {
			armed = false
			if derr := p.Delete(); derr != nil {
				t.Error(derr)
			}
		}
		return err
	}
	p = open(t, dir, testConfig(), Deps{Disk: d, Failed: func(_ record.TopicPartition, err error) { t.Errorf("failed: %v", err) }})
	if _, err := p.Append(plain(t, 1e12, "a"), Client); err != nil {
		t.Fatal(err)
	}
	armed = true
	if end, err := p.Flush(); end != -1 || err != nil {
		t.Errorf("flushed up to %d: %v", end, err)
	}
	if armed {
		t.Error("nothing was synced")
	}
}
