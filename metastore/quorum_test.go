package metastore

import (
	"slices"
	"testing"

	"github.com/firnlog/firn/record"
)

func TestQuorum(t *testing.T) {
	s := openStore(t, t.TempDir())
	before := s.Quorum()
	if before.Leader != s.cfg.BrokerID || !slices.Equal(before.Voters, []record.BrokerID{s.cfg.BrokerID}) {
		t.Errorf("leader %d and voters %v, want this broker alone", before.Leader, before.Voters)
	}
	if before.Term < 1 || before.Revision < s.Image().Revision {
		t.Errorf("term %d, revision %d with an image of revision %d", before.Term, before.Revision, s.Image().Revision)
	}
	if _, err := s.AllocateProducerIDs(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if after := s.Quorum(); after.Revision <= before.Revision {
		t.Errorf("revision %d after a change, %d before it", after.Revision, before.Revision)
	}
}
