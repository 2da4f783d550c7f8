"""Tables: how good and how fast fastbp's presets are beside trees and RealMLP, on real data."""
