package firntest

import "testing"

func TestParseMetrics(t *testing.T) {
	good := "h_bucket{a=\"1\"} 1\nh_sum{a=\"1\"} 1\nh_bucket{a=\"2\"} 1\nh_sum{a=\"2\"} 1\n# HELP a b\na 1\na{x=\"1\",y=\"\\\"}\\n\\\\ \"} -2.5e3\nb_bucket{le=\"+Inf\"} +Inf\nc NaN\n"
	values, err := ParseMetrics(good)
	if err != nil || len(values) != 8 || values[`a{x="1",y="\"}\n\\ "}`] != -2500 {
		t.Errorf("got %v, %v", values, err)
	}
	for _, bad := range []string{
		"a", "a\n", "a 1", "9a 1\n", "a-b 1\n", "a {x=\"1\"} 1\n", "a  1\n", "a 1 \n", "a 0x1p3\n", "a nan\n", "a inf\n", "a{} \n",
		"a{x=1} 1\n", "a{x=\"1} 1\n", "a{x=\"\\q\"} 1\n", "a{x=\"1\";y=\"2\"} 1\n", "a{__name__=\"b\"} 1\n",
		"a{x=\"1\",x=\"2\"} 1\n", "a{x=\"1\"} 1\na{x=\"1\"} 2\n", "a 1\nb 1\na{x=\"1\"} 1\n", "a{x=\"\xff\"} 1\n", "a{9=\"\"} 1\n",
	} {
		if got, err := ParseMetrics(bad); err == nil {
			t.Errorf("%q is taken: %v", bad, got)
		}
	}
}
