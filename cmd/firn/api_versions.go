package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/wire"
)

// brokerAPIs is what brokers answer that answer the same.
type brokerAPIs struct {
	Brokers []int32   `json:"brokers"`
	APIs    []apiInfo `json:"apis"`
}

// apiInfo is one API key, at a broker and in this binary. -1 stands for "not
// at all".
type apiInfo struct {
	Key     int16  `json:"key"`
	Name    string `json:"name"` // "" when this binary has never heard of it
	Min     int16  `json:"min"`
	Max     int16  `json:"max"`
	FirnMin int16  `json:"firnMin"`
	FirnMax int16  `json:"firnMax"`
}

func (a *app) apiVersionsCommand() *cobra.Command {
	broker := int32(-1)
	cmd := &cobra.Command{
		Use:   "api-versions",
		Short: "Show which requests a broker answers",
		Long: `Show which requests each broker answers, in which versions, beside what a broker of this
firn's version answers. Brokers that answer the same are shown together.`,
		Example: `  firn api-versions
  firn api-versions --broker 1 --output json`,
		Args: args(cobra.NoArgs, "no arguments; one broker: --broker ID"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, adm, done, err := a.admin(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			all, err := adm.ApiVersions(ctx)
			if err != nil {
				return a.explain("versions", err, "")
			}
			shown := []brokerAPIs{}
			for _, v := range all.Sorted() {
				if broker >= 0 && v.NodeID != broker {
					continue
				}
				if v.Err != nil {
					return a.explain(fmt.Sprintf("versions of broker %d", v.NodeID), v.Err, "")
				}
				shown = addAPIs(shown, v.NodeID, compareAPIs(v))
			}
			if len(shown) == 0 {
				return failf("brokers: firn cluster info", "broker %d is not in this cluster", broker)
			}
			return printEach(a, shown, a.printAPIs)
		},
	}
	a.addBrokers(cmd)
	cmd.Flags().Int32Var(&broker, "broker", -1, "only the broker with this `ID`")
	return cmd
}

func addAPIs(shown []brokerAPIs, broker int32, apis []apiInfo) []brokerAPIs {
	for i := range shown {
		if slices.Equal(shown[i].APIs, apis) {
			shown[i].Brokers = append(shown[i].Brokers, broker)
			return shown
		}
	}
	return append(shown, brokerAPIs{[]int32{broker}, apis})
}

// compareAPIs lists by key what the broker or this binary answers.
func compareAPIs(v kadm.BrokerApiVersions) []apiInfo {
	byKey := map[int16]apiInfo{}
	v.EachKeySorted(func(key, lo, hi int16) {
		byKey[key] = apiInfo{Key: key, Name: apiName(key), Min: lo, Max: hi, FirnMin: -1, FirnMax: -1}
	})
	for _, s := range wire.Supported() {
		api, ok := byKey[s.Key]
		if !ok {
			api = apiInfo{Key: s.Key, Name: apiName(s.Key), Min: -1, Max: -1}
		}
		api.FirnMin, api.FirnMax = s.Min, s.Max
		byKey[s.Key] = api
	}
	var all []apiInfo
	for _, key := range sortedKeys(byKey) {
		all = append(all, byKey[key])
	}
	return all
}

// apiName is "" for a key that kmsg does not know.
func apiName(key int16) string {
	if kmsg.RequestForKey(key) == nil {
		return ""
	}
	return kmsg.NameForKey(key)
}

func (a *app) printAPIs(b brokerAPIs) error {
	var ids []string
	for _, id := range b.Brokers {
		ids = append(ids, strconv.Itoa(int(id)))
	}
	word := "broker"
	if len(ids) > 1 {
		word = "brokers"
	}
	same := true
	t := newTable(">KEY", "NAME", word+" "+strings.Join(ids, ", "), "firn "+version, "NOTE")
	for _, api := range b.APIs {
		note := ""
		switch {
		case api.Min < 0:
			note = "only in this firn"
		case api.FirnMin < 0:
			note = "not in this firn"
		case api.Min != api.FirnMin || api.Max != api.FirnMax:
			note = "other versions"
		}
		same = same && note == ""
		t.row(api.Key, api.Name, versionsText(api.Min, api.Max), versionsText(api.FirnMin, api.FirnMax), note)
	}
	if same {
		t.dropLast()
	}
	return t.print(a.out)
}

func versionsText(lo, hi int16) string {
	switch {
	case lo < 0:
		return ""
	case lo == hi:
		return strconv.Itoa(int(lo))
	}
	return fmt.Sprintf("%d-%d", lo, hi)
}
